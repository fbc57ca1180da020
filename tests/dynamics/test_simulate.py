"""The start, the loop, batches, restarts, logs and stops."""

import numpy as np
import pytest
import torch
from dynamics.potentials import Free, Potential, argon, cluster, fcc, gas

from mosso.data.structure import Structure
from mosso.dynamics.integrators import NVE, Langevin, NoseHoover, StochasticCellRescaling, temperature
from mosso.dynamics.simulate import load_state, require_settings, save_state, simulate, start
from mosso.dynamics.units import ATOMIC_MASSES, BAR, FS, GRAM_PER_CM3, KB
from mosso.kernels import sum_segments

ENSEMBLES = [
    NVE(),
    Langevin(60.0, 0.02),
    NoseHoover(60.0, 50.0),
    *(StochasticCellRescaling(60.0, 500.0, 0.02, 200.0, 1e-4, coupling) for coupling in ("isotropic", "anisotropic")),
]
IDS = ["nve", "langevin", "nose-hoover", "npt", "npt-anisotropic"]


def same(a, b):
    for name in ("momenta_N3", "forces_N3", "energy_B", "exchanged_B", "chain_B2M", "time", "step", "seeds_B"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert torch.equal(a.batch.positions_N3, b.batch.positions_N3)
    assert torch.equal(a.batch.cell_B33, b.batch.cell_B33)


def test_units_are_those_of_ase():
    import ase.data
    import ase.units

    units = ase.units.create_units("2018")
    expected = [units["fs"], units["kB"], units["bar"], 1e27 * units["_amu"]]
    np.testing.assert_allclose([FS, KB, BAR, GRAM_PER_CM3], expected, rtol=1e-9)
    assert [float(m) for m in ase.data.atomic_masses] == list(ATOMIC_MASSES)


def test_start_is_maxwell_boltzmann_without_drift_and_rotation():
    state = start(Free(), [gas(4000, 500.0), cluster(20)], 300.0, seed=7)
    assert sum_segments(state.momenta_N3, state.counts_B).abs().max() < 1e-11
    arm = state.batch.positions_N3[4000:] - state.batch.positions_N3[4000:].mean(0)
    assert torch.linalg.cross(arm, state.momenta_N3[4000:]).sum(0).abs().max() < 1e-11
    scaled = state.momenta_N3[:4000] / (39.948 * KB * 300.0) ** 0.5
    assert abs(scaled.var() - 1.0) < 4 * (2 / 12000) ** 0.5
    assert abs((scaled**4).mean() - 3.0) < 4 * (96 / 12000) ** 0.5


def test_start_has_the_right_mean_temperature_whatever_the_size():
    """With the right degrees of freedom the mean over many starts is the temperature asked for."""
    line = Structure([8, 6, 8], [[0, 0, -1.2], [0, 0, 0], [0, 0, 1.2]])
    for structure, freedom in ((cluster(1), 3), (cluster(2), 1), (line, 4), (cluster(4), 6), (gas(3, 50.0), 6), (gas(1, 50.0), 3)):
        state = start(Free(), [structure] * 2000, 300.0, seed=0)
        assert set(NVE().degrees_of_freedom(state).tolist()) == {freedom}
        assert abs(temperature(state, NVE()).mean() / 300.0 - 1.0) < 4 * (2 / freedom / 2000) ** 0.5


def test_start_options():
    heavy = start(Free(), cluster(3), 300.0, masses=[1.0, 2.0, 3.0])
    assert heavy.masses_N.tolist() == [1.0, 2.0, 3.0]
    assert start(Free(), cluster(3), 0.0).momenta_N3.abs().max() == 0.0
    pair = start(argon(), [cluster(), cluster()], 50.0, seed=[4, 4])
    assert torch.equal(pair.momenta_N3[:7], pair.momenta_N3[7:])
    with pytest.raises(ValueError, match="seeds for"):
        start(argon(), [cluster(), cluster()], 50.0, seed=[4])
    for kelvin in (-5.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="zero or more"):
            start(argon(), cluster(), kelvin)
    with pytest.raises(ValueError, match="positive numbers"):
        start(argon(), cluster(3), 5.0, masses=[1.0])
    with pytest.raises(ValueError, match="no atoms"):
        start(argon(), [Structure([], np.zeros((0, 3)))], 5.0)
    with pytest.raises(ValueError, match="temperature_init"):
        simulate(argon(), cluster(), NVE(), num_steps=1)
    with pytest.raises(ValueError, match="other atoms"):
        simulate(argon(), cluster(4), NVE(), num_steps=1, state=start(argon(), cluster(3), 5.0))


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=IDS)
def test_a_batch_is_its_systems_one_by_one(ensemble):
    structures = [fcc(), fcc(a=5.4, seed=1), gas(1, 30.0)]
    if not isinstance(ensemble, StochasticCellRescaling):
        structures.insert(1, cluster())
    options = {"num_steps": 20, "timestep": 2.0, "temperature_init": 60.0, "skin": 0.4}
    together = simulate(argon(), structures, ensemble, seed=10, **options)
    for b, structure in enumerate(structures):
        alone = simulate(argon(), structure, ensemble, seed=10 + b, **options)
        atoms = slice(together.batch.offsets[b], together.batch.offsets[b + 1])
        assert torch.equal(together.batch.positions_N3[atoms], alone.batch.positions_N3)
        assert torch.equal(together.momenta_N3[atoms], alone.momenta_N3)
        assert torch.equal(together.batch.cell_B33[b], alone.batch.cell_B33[0])
        assert torch.equal(together.exchanged_B[b], alone.exchanged_B[0])
        assert torch.equal(together.chain_B2M[b], alone.chain_B2M[0])


@pytest.mark.parametrize("ensemble", ENSEMBLES, ids=IDS)
def test_a_resumed_run_is_the_uninterrupted_one(ensemble, tmp_path):
    structures = [fcc(), fcc(a=5.4, seed=1)]
    options = {"timestep": 2.0, "log_every": 4, "write_every": 5}
    rows, frames, rows_again, frames_again = [], [], [], []
    whole = simulate(
        argon(), structures, ensemble, num_steps=20, temperature_init=60.0, on_log=rows.append, on_frame=frames.append, **options
    )
    handlers = {"on_log": rows_again.append, "on_frame": frames_again.append}
    half = simulate(argon(), structures, ensemble, num_steps=10, temperature_init=60.0, **handlers, **options)
    save_state(tmp_path / "state.npz", half)
    loaded = load_state(tmp_path / "state.npz")
    same(half, loaded)
    resumed = simulate(argon(), structures, ensemble, num_steps=10, state=loaded, **handlers, **options)
    same(whole, resumed)
    assert [row.step for row in rows_again] == [row.step for row in rows] == [0, 4, 8, 12, 16, 20]
    assert [int(frame.step) for frame in frames_again] == [0, 5, 10, 15, 20]
    for ours, theirs in zip(rows, rows_again, strict=True):
        for name in ("conserved_energy", "pressure", "temperature", "density"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_step_0_is_recorded_and_a_later_step_one_goes_on_from_is_not():
    rows = []
    state = start(argon(), cluster(), 10.0)
    for _ in range(2):
        state = simulate(argon(), None, NVE(), num_steps=2, state=state, log_every=1, on_log=rows.append)
    assert [row.step for row in rows] == [0, 1, 2, 3, 4]


def test_checkpoints_are_whole_and_refuse_other_files(tmp_path):
    path = tmp_path / "state.npz"
    with pytest.raises(ValueError, match="No checkpoint"):
        load_state(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a mosso checkpoint"):
        load_state(path)
    np.savez(path, positions=np.zeros(3))
    with pytest.raises(ValueError, match="not a mosso checkpoint"):
        load_state(path)
    state = start(argon(), cluster(), 10.0)
    save_state(path, state)
    assert load_state(path).stress_B33 is None
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]


def test_a_checkpoint_that_lacks_something_names_it(tmp_path):
    whole, path = tmp_path / "whole.npz", tmp_path / "state.npz"
    save_state(whole, start(argon(), fcc(), 10.0), {"timestep": 1.0})
    with np.load(whole) as file:
        arrays = dict(file)
    for name in arrays.keys() - {"format", "stress_B33"}:
        np.savez(path, **{key: array for key, array in arrays.items() if key != name})
        for read in (load_state, lambda path: require_settings(path, {"timestep": 1.0})):
            with pytest.raises(ValueError, match=rf"state.npz is not complete, it lacks {name}: .*start a new run"):
                read(path)


def test_log_rows_say_what_they_should():
    rows = []
    potential = argon()
    structures = [fcc(rattle=0.0)]
    simulate(potential, structures, NVE(), num_steps=4, timestep=0.5, temperature_init=0.0, log_every=2, on_log=rows.append)
    assert potential.num_stress == 1 + 2  # the start and two logged steps
    assert [row.step for row in rows] == [0, 2, 4]
    assert rows[2].time == pytest.approx(0.002)
    assert rows[0].density[0] == pytest.approx(4 * 39.948 * 1.66053907 / 5.3**3)
    assert rows[0].temperature[0] == 0.0
    assert rows[0].max_force[0] < 1e-12
    # at rest, pressure is -dE/dV
    energy = [simulate(argon(), fcc(a=a, rattle=0.0), NVE(), num_steps=0, temperature_init=0.0).energy_B for a in (5.299, 5.301)]
    expected = -float(energy[1] - energy[0]) / (8 * (5.301**3 - 5.299**3)) / BAR
    assert rows[0].pressure[0] == pytest.approx(expected, rel=1e-4)
    rows.clear()
    simulate(argon(), [cluster(), fcc()], Langevin(300.0), num_steps=1, log_every=1, on_log=rows.append)
    assert [np.isfinite(row.pressure).tolist() for row in rows] == [[False, True]] * 2
    rows.clear()
    simulate(Free(), cluster(), Langevin(300.0), num_steps=0, on_log=rows.append)
    assert np.isnan(rows[0].pressure[0])
    assert np.isnan(rows[0].density[0])


def test_ideal_gas_pressure():
    rows = []
    simulate(Free(), [gas(50, 40.0, seed=b) for b in range(40)], Langevin(300.0), num_steps=0, on_log=rows.append)
    # the start takes the motion of the centre of mass away
    assert rows[0].pressure.mean() == pytest.approx(49 * KB * 300.0 / 40.0**3 / BAR, rel=0.06)


def test_an_unstable_run_stops_with_one_sentence_and_keeps_what_it_had():
    rows = []
    with pytest.raises(ValueError, match=r"unstable at step .*smaller timestep"):
        simulate(argon(), fcc(), NVE(), num_steps=500, timestep=300.0, temperature_init=600.0, log_every=1, on_log=rows.append)
    assert rows
    assert all(np.isfinite(row.potential_energy).all() for row in rows)


class Broken(Potential):
    """Gives NaN for one system from the third evaluation on."""

    num_calls = 0

    def evaluate(self, batch, graph, *, stress=False):
        self.num_calls += 1
        output = Free().evaluate(batch, graph, stress=stress)
        if self.num_calls > 3:
            output.forces[batch.offsets[1]] = torch.nan
        return output


def test_numbers_that_are_not_finite_are_noticed_at_once_and_name_the_system():
    rows = []
    with pytest.raises(ValueError, match=r"unstable at step 3 \(system 1"):
        simulate(Broken(), [cluster(), cluster()], NVE(), num_steps=10, temperature_init=10.0, log_every=1, on_log=rows.append)
    assert [row.step for row in rows] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "value"),
    [*(("timestep", x) for x in (0.0, -1.0, np.inf, np.nan)), ("num_steps", -1), ("log_every", 0), ("write_every", -2)],
)
def test_the_number_that_is_wrong_is_named_and_no_other(name, value):
    options = {"num_steps": 1, "timestep": 1.0, "log_every": 1, "write_every": 1}
    with pytest.raises(ValueError, match=rf"^{name} is {value}.*: give") as caught:
        simulate(argon(), cluster(), Langevin(10.0), **options | {name: value})
    assert not any(other in str(caught.value) for other in options if other != name)


def test_a_pressure_that_would_take_all_of_the_volume_in_a_step_is_refused():
    """beta P dt / tau of 1 is where lambda of stochastic cell rescaling loses half of itself, and of 2 where it turns negative."""
    for bar, timestep in ((1e12, 0.5), (-1e12, 0.5), (5e7, 0.5), (1e6, 25.0)):
        with pytest.raises(ValueError, match=r"change the volume by .* smaller pressure or timestep"):
            simulate(argon(), fcc(), StochasticCellRescaling(60.0, bar), num_steps=1, timestep=timestep)
    simulate(argon(), fcc(), StochasticCellRescaling(60.0, 1e6), num_steps=1, timestep=0.5)


def test_seeds_that_do_not_fit_into_64_bits_are_refused():
    for seeds in (10**23, -(2**63) - 1, [0, 2**63], 2**63 - 1):  # the second system takes the seed after the one given
        with pytest.raises(ValueError, match="from -9223372036854775808 to 9223372036854775807"):
            start(argon(), [cluster(), cluster()], 10.0, seed=seeds)
    ends = [-(2**63), 2**63 - 1]
    assert start(argon(), [cluster(), cluster()], 10.0, seed=ends).seeds_B.tolist() == ends


def test_blocks_are_told_after_their_rows():
    told = []
    simulate(
        argon(), fcc(), NVE(), num_steps=33, temperature_init=60.0, log_every=5,
        on_log=lambda row: told.append(("row", row.step)), on_block=lambda step: told.append(("block", step)),
    )  # fmt: skip
    assert told[-1] == ("block", 33)
    blocks = [step for kind, step in told if kind == "block"]
    assert len(blocks) > 1 and blocks == sorted(set(blocks))
    rows = [step for kind, step in told if kind == "row"]
    assert rows == list(range(0, 34, 5))
    for before, after in zip(told, told[1:], strict=False):
        assert before[1] <= after[1], "a block comes behind its rows and before those of the next"
