"""Physics of the steps: order, reversibility, equipartition, the sampled volume."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.md.verlet import VelocityVerlet
from dynamics.potentials import Free, Tethered, argon, cluster, fcc, gas

from mosso.data.structure import Batch, Structure
from mosso.dynamics.integrators import NVE, Langevin, NoseHoover, StochasticCellRescaling, temperature
from mosso.dynamics.simulate import simulate
from mosso.dynamics.state import kinetic_energy, start
from mosso.dynamics.units import BAR, FS, KB


def energies(ensemble, num_steps, timestep, kelvin=40.0, structure=None):
    rows = []
    structure = structure or fcc()
    simulate(argon(), structure, ensemble, num_steps=num_steps, timestep=timestep, temperature_init=kelvin, log_every=1, on_log=rows.append)
    return np.array([row.conserved_energy for row in rows])


def test_nve_energy_error_scales_with_the_square_of_the_timestep():
    errors = [np.ptp(energies(NVE(), int(400 / dt), dt)[int(100 / dt) :]) for dt in (2.0, 4.0, 8.0)]
    assert errors[0] < 1e-4
    for fine, coarse in itertools.pairwise(errors):
        assert 3.5 < coarse / fine < 4.6


@pytest.mark.parametrize("ensemble", [NVE(), NoseHoover(40.0, relaxation_time=50.0)])
def test_deterministic_dynamics_run_backwards(ensemble):
    first = start(argon(), [fcc(), cluster()], 40.0, seed=2)
    there = simulate(argon(), None, ensemble, num_steps=100, timestep=2.0, state=first)
    turned = replace(there, momenta_N3=-there.momenta_N3, chain_B2M=there.chain_B2M * torch.tensor([[[1.0], [-1.0]]]))
    back = simulate(argon(), None, ensemble, num_steps=100, timestep=2.0, state=turned)
    assert (there.batch.positions_N3 - first.batch.positions_N3).abs().max() > 0.1
    torch.testing.assert_close(back.batch.positions_N3, first.batch.positions_N3, rtol=0, atol=1e-9)
    torch.testing.assert_close(back.momenta_N3, -first.momenta_N3, rtol=0, atol=1e-9)


class AseArgon(Calculator):
    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        batch = Batch.of([Structure.of(atoms)])
        output = argon().evaluate(batch, argon().graph(batch))
        self.results = {"energy": float(output.energy), "forces": output.forces.numpy()}


def test_nve_follows_the_trajectory_of_ase():
    structure = fcc()
    state = start(argon(), structure, 60.0, seed=5)
    atoms = Atoms(numbers=structure.numbers, positions=structure.positions, cell=structure.cell, pbc=True, momenta=state.momenta_N3.numpy())
    atoms.calc = AseArgon()
    VelocityVerlet(atoms, timestep=2.0 * FS).run(50)
    state = simulate(argon(), None, NVE(), num_steps=50, timestep=2.0, state=state)
    np.testing.assert_allclose(state.batch.positions_N3.numpy(), atoms.positions, rtol=0, atol=1e-10)
    np.testing.assert_allclose(state.momenta_N3.numpy(), atoms.get_momenta(), rtol=0, atol=1e-10)


def test_baoab_samples_a_harmonic_solid_as_theory_says():
    """Configurations are exact at any time step, <p^2/m> = kT (1 - (omega dt)^2 / 4) (Leimkuhler & Matthews 2013)."""
    spring, timestep, kelvin = 5.0, 20.0, 300.0
    structure = gas(1000, 100.0)
    potential = Tethered(spring, torch.as_tensor(structure.positions))
    state, ensemble = start(potential, structure, kelvin, seed=1), Langevin(kelvin, friction=0.02)
    potential_sum = kinetic_sum = 0.0
    for step in range(450):
        state = ensemble.step(state, timestep, lambda batch: potential.evaluate(batch, None))
        if step >= 50:
            potential_sum += float(state.energy_B) / 400
            kinetic_sum += float(kinetic_energy(state)) / 400
    expected = 1.5 * KB * kelvin * 1000
    omega_dt = (spring / 39.948) ** 0.5 * timestep * FS
    assert omega_dt > 0.6
    assert abs(potential_sum / expected - 1.0) < 0.012
    assert abs(kinetic_sum / expected / (1.0 - omega_dt**2 / 4.0) - 1.0) < 0.012


def test_langevin_and_chain_hold_the_temperature_and_conserve_their_energy():
    for ensemble in (Langevin(40.0, friction=0.02), NoseHoover(40.0, relaxation_time=50.0)):
        rows = []
        energy = energies(ensemble, 200, 2.0, kelvin=40.0)
        assert np.ptp(energy) < 2e-3, ensemble
        options = {"timestep": 5.0, "log_every": 5}
        state = simulate(argon(), [fcc(seed=s) for s in range(6)], ensemble, num_steps=200, temperature_init=80.0, **options)
        simulate(argon(), None, ensemble, num_steps=300, state=state, on_log=rows.append, **options)
        assert abs(np.mean([row.temperature for row in rows]) - 40.0) < 2.5, ensemble


def test_nose_hoover_energy_error_scales_with_the_square_of_the_timestep():
    errors = [np.ptp(energies(NoseHoover(40.0, relaxation_time=100.0), int(400 / dt), dt)) for dt in (2.0, 4.0)]
    assert 3.2 < errors[1] / errors[0] < 4.8


@pytest.mark.parametrize("coupling", ["isotropic", "anisotropic", pytest.param("diagonal", marks=pytest.mark.slow)])
def test_ideal_gas_takes_the_volume_of_its_law(coupling):
    """P(V) ~ V^N exp(-P V / kT): mean (N + 1) kT / P and standard deviation sqrt(N + 1) kT / P."""
    num_atoms, num_systems, kelvin, bar = 20, 64, 300.0, 100.0
    unit = KB * kelvin / (bar * BAR)
    length = ((num_atoms + 1) * unit) ** (1 / 3)
    state = start(Free(), [gas(num_atoms, length, seed=b) for b in range(num_systems)], kelvin, seed=0)
    ensemble = StochasticCellRescaling(kelvin, bar, 0.05, barostat_time=50.0, compressibility=1.0 / bar, coupling=coupling)
    conserved, volumes = ensemble.conserved_energy(state), []
    for step in range(2500):
        state = ensemble.step(state, 1.0, lambda batch: Free().evaluate(batch, None, stress=True))
        if step >= 300:
            volumes.append(state.batch.volume_B.numpy())
    volumes = np.array(volumes) / unit
    error = volumes.mean(axis=0).std(ddof=1) / num_systems**0.5
    assert error < 0.01 * num_atoms
    assert abs(volumes.mean() - (num_atoms + 1)) < 4 * error
    assert abs(volumes.std() / (num_atoms + 1) ** 0.5 - 1.0) < 0.06
    drift = ensemble.conserved_energy(state) - conserved
    assert drift.abs().max() < 1e-10


class ElasticGas(Free):
    """No forces on the atoms, but the energy N k tr(e^2) / 2 (k in eV) of a cell whose metric is that of exp(2 e) times L^2."""

    def __init__(self, spring: float, length: float) -> None:
        self.spring, self.length = spring, length

    def strain(self, batch: Batch) -> torch.Tensor:
        value_B3, vector_B33 = torch.linalg.eigh(batch.cell_B33.mT @ batch.cell_B33 / self.length**2)
        return vector_B33 @ torch.diag_embed(0.5 * value_B3.log()) @ vector_B33.mT

    def evaluate(self, batch, graph, *, stress=False):
        output = super().evaluate(batch, graph, stress=stress)
        strain_B33 = self.strain(batch)
        energy_B = 0.5 * self.spring * strain_B33.square().sum((1, 2))
        # the energy depends on the left stretch alone and is isotropic, so its Cauchy stress is dE/de / V
        return replace(output, energy=energy_B, stress=self.spring * strain_B33 / batch.volume_B[:, None, None])


def test_elastic_cell_fluctuates_as_theory_says():
    """N = 1, P0 so that V^N exp(-P0 V / kT) is flat at V = L^3: deviatoric strains have the variance kT / k, to first order in it."""
    kelvin, num_systems = 300.0, 64
    spring, length = 400.0 * KB * kelvin, 20.0
    potential = ElasticGas(spring, length)
    state = start(potential, [gas(8, length, seed=b) for b in range(num_systems)], kelvin, seed=3)
    bar = 9 * KB * kelvin / length**3 / BAR
    ensemble = StochasticCellRescaling(kelvin, bar, 0.05, barostat_time=50.0, compressibility=1 / bar, coupling="anisotropic")
    first, shear, stretch, energies = ensemble.conserved_energy(state), [], [], []
    for step in range(2500):
        state = ensemble.step(state, 0.2, lambda batch: potential.evaluate(batch, None, stress=True))
        if step >= 500:
            strain_B33 = potential.strain(state.batch)
            shear.append((strain_B33[:, [0, 0, 1], [1, 2, 2]].square().mean(1)).numpy())
            deviator_B3 = strain_B33.diagonal(dim1=1, dim2=2) - strain_B33.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
            stretch.append((deviator_B3.square().sum(1) / 2).numpy())
        energies.append((ensemble.conserved_energy(state) - first).abs().max())
    for samples, expected in ((np.array(shear), 1 / 800), (np.array(stretch), 1 / 400)):
        error = samples.mean(axis=0).std(ddof=1) / num_systems**0.5
        assert error < 0.05 * expected
        assert abs(samples.mean() / expected - 1.0) < 4 * error / expected + 0.02
    assert max(energies) < 0.2 * KB * kelvin * 8


def test_couplings_move_what_they_should():
    cells = {}
    for coupling in ("anisotropic", "diagonal"):
        ensemble = StochasticCellRescaling(40.0, 1000.0, barostat_time=200.0, compressibility=1e-4, coupling=coupling)
        rows = []
        state = simulate(argon(), fcc(), ensemble, num_steps=100, timestep=2.0, seed=3, log_every=1, on_log=rows.append)
        assert np.ptp([row.conserved_energy for row in rows]) < 5e-3
        cells[coupling] = state.batch.cell_B33[0]
        diagonal_3 = cells[coupling].diagonal()
        assert len(set(diagonal_3.tolist())) == 3
    assert (cells["diagonal"] - cells["diagonal"].diagonal().diag()).abs().max() == 0.0
    shear = (cells["anisotropic"] - cells["anisotropic"].diagonal().diag()).abs().max()
    assert shear > 1e-2
    # strains are symmetric; only their order turns the cell, in second order
    assert (cells["anisotropic"] - cells["anisotropic"].mT).abs().max() < 0.1 * shear


def test_constant_pressure_conserves_its_energy_and_moves_the_cell():
    ensemble = StochasticCellRescaling(40.0, 1000.0, friction=0.01, barostat_time=500.0, compressibility=1e-4)
    state = start(argon(), fcc(), 40.0, seed=0)
    energy = energies(ensemble, 200, 2.0)
    moved = simulate(argon(), None, ensemble, num_steps=50, timestep=2.0, state=state)
    assert np.ptp(energy) < 5e-3
    assert abs(float(moved.batch.volume_B / state.batch.volume_B) - 1.0) > 1e-4
    shape_33 = moved.batch.cell_B33[0] / moved.batch.cell_B33[0, 0, 0]
    torch.testing.assert_close(shape_33, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.slow
def test_solid_takes_the_pressure_it_is_given():
    ensemble = StochasticCellRescaling(40.0, 500.0, friction=0.02, barostat_time=200.0, compressibility=1e-4)
    state = simulate(argon(), [fcc(seed=s) for s in range(4)], ensemble, num_steps=500, timestep=4.0)
    bars = []
    simulate(argon(), None, ensemble, num_steps=4000, timestep=4.0, state=state, log_every=2, on_log=lambda row: bars.append(row.pressure))
    bars = np.array(bars)
    error = bars.reshape(10, -1).mean(axis=1).std(ddof=1) / 10**0.5
    assert abs(bars.mean() - 500.0) < 4 * error
    assert error < 40.0


def test_ensembles_refuse_what_makes_no_sense():
    for build in (
        lambda: Langevin(-1.0),
        lambda: Langevin(300.0, friction=-0.1),
        lambda: NoseHoover(0.0),
        lambda: NoseHoover(300.0, chain=0),
        lambda: NoseHoover(300.0, relaxation_time=float("inf")),
        lambda: Langevin(float("inf")),
        lambda: Langevin(300.0, friction=float("nan")),
        lambda: StochasticCellRescaling(300.0, compressibility=float("inf")),
        lambda: StochasticCellRescaling(300.0, barostat_time=0.0),
        lambda: StochasticCellRescaling(300.0, pressure=float("nan")),
        lambda: StochasticCellRescaling(300.0, coupling="cubic"),
    ):
        with pytest.raises(ValueError, match="give"):
            build()
    with pytest.raises(ValueError, match="periodic in all three"):
        simulate(argon(), cluster(), StochasticCellRescaling(300.0), num_steps=1)


def test_temperature_of_one_ensemble_in_another_counts_its_own_degrees_of_freedom():
    state = start(argon(), [fcc(), cluster(7), cluster(1)], 50.0)
    assert NVE().degrees_of_freedom(state).tolist() == [93, 15, 3]
    assert Langevin(50.0).degrees_of_freedom(state).tolist() == [96, 21, 3]
    ratio = temperature(state, NVE()) / temperature(state, Langevin(50.0))
    torch.testing.assert_close(ratio, torch.tensor([96 / 93, 21 / 15, 1.0], dtype=torch.float64))


def slab() -> Structure:
    fixed = np.zeros(32, dtype=bool)
    fixed[::3] = True
    return replace(fcc(), fixed=fixed)


@pytest.mark.parametrize("ensemble", [NVE(), Langevin(60.0, 0.02), NoseHoover(60.0, 50.0)])
def test_fixed_atoms_stay_and_take_no_part(ensemble):
    structure = slab()
    rows = []
    state = simulate(argon(), structure, ensemble, num_steps=50, timestep=2.0, temperature_init=60.0, log_every=1, on_log=rows.append)
    moved = (state.batch.positions_N3 - torch.as_tensor(structure.positions)).abs().amax(1)
    assert (moved[structure.fixed] == 0.0).all()
    assert (moved[~structure.fixed] > 0.0).all()
    assert (state.momenta_N3[structure.fixed] == 0.0).all()
    assert ensemble.degrees_of_freedom(state).tolist() == [3 * int((~structure.fixed).sum())]
    assert np.ptp([row.conserved_energy for row in rows]) < 2e-3
    assert rows[0].max_force[0] == float(start(argon(), structure, 1.0).forces_N3[~structure.fixed].norm(dim=1).max())


def test_free_atoms_beside_fixed_ones_have_the_temperature_asked_for():
    states = start(argon(), [slab()] * 200, 300.0, seed=0)
    assert abs(float(temperature(states, NVE()).mean()) / 300.0 - 1.0) < 4 * (2 / 63 / 200) ** 0.5
    state = simulate(argon(), [slab()] * 6, Langevin(40.0, 0.02), num_steps=150, timestep=5.0, temperature_init=80.0)
    rows = []
    simulate(argon(), None, Langevin(40.0, 0.02), num_steps=300, timestep=5.0, state=state, log_every=5, on_log=rows.append)
    assert abs(np.mean([row.temperature for row in rows]) - 40.0) < 3.0


def test_fixed_atoms_follow_the_cell():
    ensemble = StochasticCellRescaling(40.0, 1000.0, barostat_time=200.0, compressibility=1e-4)
    state = simulate(argon(), slab(), ensemble, num_steps=20, timestep=2.0)
    before, after = np.linalg.inv(slab().cell), torch.linalg.inv(state.batch.cell_B33[0]).numpy()
    fractional = slab().positions @ before - state.batch.positions_N3.numpy() @ after
    assert abs(fractional[slab().fixed]).max() < 1e-14
    assert abs(state.batch.cell_B33[0, 0, 0] - 10.6) > 1e-4


def test_nothing_free_or_other_fixed_atoms_are_refused():
    with pytest.raises(ValueError, match="Structure 1: all its atoms are fixed"):
        start(argon(), [fcc(1), replace(fcc(1), fixed=np.ones(4, dtype=bool))], 10.0)
    with pytest.raises(ValueError, match="other fixed atoms"):
        simulate(argon(), fcc(), NVE(), num_steps=1, state=start(argon(), slab(), 5.0))


@pytest.mark.parametrize("ensemble", [NVE(), Langevin(300.0), NoseHoover(300.0)], ids=lambda ensemble: type(ensemble).__name__)
def test_degrees_of_freedom_keep_double_precision(ensemble) -> None:
    """Whole numbers times a Python float would be float32."""
    state = ensemble.prepare(start(Free(), gas(50, 30.0), 300.0))
    freedom_B = ensemble.degrees_of_freedom(state)
    assert freedom_B.dtype == torch.float64
    want = 2.0 * float(kinetic_energy(state)) / (KB * float(freedom_B))
    assert float(temperature(state, ensemble)) == pytest.approx(want, rel=1e-14)
