"""Relaxation: known minima, cells, masks, and ASE's path."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize import FIRE
from dynamics.potentials import ARGON, Free, LennardJones, argon, cluster, fcc, gas
from dynamics.test_blocks import Stubborn

from mosso.data.structure import Batch, Structure
from mosso.dynamics import blocks
from mosso.dynamics.relax import RelaxInterrupted, _begin, _generalised_forces, _place, relax
from mosso.dynamics.units import BAR


def icosahedron(rattle: float, seed: int = 0) -> Structure:
    golden = (1 + 5**0.5) / 2
    corners = [[0, a, b * golden] for a in (-1, 1) for b in (-1, 1)]
    positions = np.array([[0, 0, 0], *corners, *np.roll(corners, 1, 1), *np.roll(corners, 2, 1)], dtype=float)
    positions *= 1.08 / np.linalg.norm(positions[1])
    positions += rattle * np.random.default_rng(seed).standard_normal(positions.shape)
    return Structure(np.full(13, 18), positions)


def test_lj13_reaches_its_global_minimum():
    """-44.326801 epsilon: Hoare & Pal (1971), Cambridge Cluster Database."""
    result = relax(LennardJones(), [icosahedron(0.08, seed) for seed in range(3)], fmax=1e-5, steps=1000)
    assert result.converged.all()
    assert (result.max_forces <= 1e-5).all()
    np.testing.assert_allclose(result.energies, -44.326801, atol=1e-6)
    assert len(set(result.num_steps.tolist())) > 1


def test_fcc_cell_reaches_its_analytic_lattice_constant():
    """Shells 1 to 3 within the cutoff: r = (2 S12 / S6)^(1/6) sigma."""
    s12, s6 = 12 + 6 / 2**6 + 24 / 3**6, 12 + 6 / 2**3 + 24 / 3**3
    nearest = (2 * s12 / s6) ** (1 / 6)
    energy = 2 * (s12 / nearest**12 - s6 / nearest**6)
    start = fcc(1, a=1.6, rattle=0.01)
    sheared = start.cell @ (np.eye(3) + np.array([[0.02, 0.01, 0], [0, -0.01, 0.02], [0, 0, 0.01]]))
    start = replace(start, positions=start.positions @ np.linalg.inv(start.cell) @ sheared, cell=sheared)
    result = relax(LennardJones(cutoff=2.05), start, fmax=1e-7, steps=2000, cell=True, skin=0.2)
    assert result.converged.all()
    metric = result.structures[0].cell @ result.structures[0].cell.T
    np.testing.assert_allclose(metric, np.eye(3) * 2 * nearest**2, atol=1e-6)
    assert result.energies[0] == pytest.approx(4 * energy, abs=1e-9)
    assert abs(result.structures[0].labels["stress"]).max() < 1e-6


def test_pressure_compresses_the_cell_to_minus_de_dv():
    bar = 5000.0
    result = relax(argon(), [fcc(1), fcc(1, seed=3)], fmax=1e-7, steps=2000, cell=True, pressure=bar)
    assert result.converged.all()
    for structure in result.structures:
        np.testing.assert_allclose(structure.labels["stress"], -bar * BAR * np.eye(3), atol=1e-7)


def test_cell_forces_are_minus_the_derivative_of_the_enthalpy():
    batch0 = Batch.of([fcc(1), fcc(1, a=5.1, seed=2)])
    walk = _begin(batch0)
    shape = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    walk = replace(walk, u_B33=0.1 * (shape + shape.mT))
    pressure, potential = 0.002, argon()

    def enthalpy(w):
        batch = _place(w, batch0, True)
        output = potential.evaluate(batch, potential.graph(batch), stress=True)
        return batch, output, output.energy + pressure * batch.volume_B

    batch, output, _ = enthalpy(walk)
    free = torch.ones(batch.num_atoms, 1, dtype=torch.bool)
    force_N3, pull_B33 = _generalised_forces(walk, batch, torch.tensor([4, 4]), output.forces, output.stress, free, pressure)
    h = 1e-5
    for i, j in ((0, 0), (1, 1), (0, 1), (1, 2)):
        bump = torch.zeros(3, 3, dtype=torch.float64)
        bump[i, j] = bump[j, i] = h
        up, down = (enthalpy(replace(walk, u_B33=walk.u_B33 + s * bump))[2] for s in (1, -1))
        expected = -(up - down) / (2 * h) / 4 / (1 if i == j else 2)
        torch.testing.assert_close(pull_B33[:, i, j], expected, rtol=1e-6, atol=1e-8)
    bump = torch.zeros_like(walk.x_N3)
    bump[5, 1] = h
    up, down = (enthalpy(replace(walk, x_N3=walk.x_N3 + s * bump))[2][1] for s in (1, -1))
    torch.testing.assert_close(force_N3[5, 1], -(up - down) / (2 * h), rtol=1e-6, atol=1e-8)


class AseLJ(Calculator):
    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        batch = Batch.of([Structure.of(atoms)])
        output = LennardJones().evaluate(batch, LennardJones().graph(batch))
        self.results = {"energy": float(output.energy), "forces": output.forces.numpy()}


def test_fire_takes_the_path_of_ase():
    structure = icosahedron(0.001)
    atoms = Atoms(numbers=structure.numbers, positions=structure.positions)
    atoms.calc = AseLJ()
    FIRE(atoms, logfile=None, dt=0.1, maxstep=100.0).run(fmax=1e-9, steps=60)
    ours = relax(LennardJones(), structure, fmax=1e-9, steps=60)
    assert not ours.converged.any()
    assert ours.num_steps.tolist() == [60]
    np.testing.assert_allclose(ours.structures[0].positions, atoms.positions, rtol=0, atol=1e-10)


def test_a_batch_relaxes_as_its_systems_do_and_the_converged_stand_still():
    structures = [icosahedron(0.05), icosahedron(0.0), icosahedron(0.1, seed=4)]
    rows = []
    together = relax(LennardJones(), structures, fmax=1e-3, on_step=rows.append)
    assert together.converged.all()
    for b, structure in enumerate(structures):
        alone = relax(LennardJones(), structure, fmax=1e-3)
        assert alone.num_steps[0] == together.num_steps[b]
        np.testing.assert_allclose(together.structures[b].positions, alone.structures[0].positions, rtol=0, atol=1e-12)
    first = int(together.num_steps.min())
    b = int(together.num_steps.argmin())
    assert all(row.energies[b] == rows[first].energies[b] for row in rows[first:])
    assert [row.step for row in rows] == list(range(len(rows)))


def test_atoms_that_are_fixed_stay():
    fixed = np.array([True, False, False, True, False, False, False])
    structure = replace(cluster(7), fixed=fixed)
    result = relax(argon(), structure, fmax=1e-4, steps=2000)
    moved = np.abs(result.structures[0].positions - structure.positions).max(axis=1)
    assert result.converged.all()
    assert (moved[fixed] == 0.0).all()
    assert (moved[~fixed] > 0.0).all()
    with pytest.raises(ValueError, match="fixed has"):
        replace(structure, fixed=[True])


def test_no_atom_moves_far_in_one_step():
    squeezed = Structure([18, 18], [[0, 0, 0], [0, 0, 2.0]])
    one = relax(argon(), squeezed, steps=1)
    assert np.linalg.norm(one.structures[0].positions - squeezed.positions, axis=1).max() == pytest.approx(0.2)
    assert relax(argon(), squeezed, fmax=1e-3, steps=500).converged.all()


def test_what_cannot_be_relaxed_is_refused():
    with pytest.raises(ValueError, match="Structure 1: it is not periodic"):
        relax(argon(), [fcc(1), cluster()], cell=True)
    with pytest.raises(ValueError, match="acts on the cell only"):
        relax(argon(), fcc(1), pressure=10.0)
    with pytest.raises(ValueError, match="positive force"):
        relax(argon(), fcc(1), fmax=0.0)
    with pytest.raises(ValueError, match="^steps is -1"):
        relax(argon(), fcc(1), steps=-1)
    for bar in (np.nan, np.inf):
        with pytest.raises(ValueError, match="pressure is .* finite"):
            relax(argon(), fcc(1), cell=True, pressure=bar)
    with pytest.raises(ValueError, match="overlap"):
        relax(argon(), Structure([18, 18], [[0, 0, 0], [0, 0, 0.01]]))


def test_nothing_to_do_takes_no_steps():
    result = relax(Free(), [gas(5, 20.0), cluster(2)])
    assert result.num_steps.tolist() == [0, 0]
    assert result.converged.all()
    assert relax(argon(), cluster(), steps=0).num_steps.tolist() == [0]


@pytest.mark.parametrize("cell", [False, True])
def test_the_length_of_blocks_changes_nothing(monkeypatch, cell):
    """Systems that converge within a block stand still for the rest of it; lists that fail are made again."""
    structures = [fcc(1, a=5.1 + 0.1 * b, seed=b, rattle=0.1 * b) for b in range(3)]
    results = []
    for steps, skin in ((1, 1.0), (50, 0.1)):
        monkeypatch.setattr(blocks, "MAX_BLOCK", steps)
        monkeypatch.setattr(blocks, "Pace", partial(Stubborn, steps))
        rows = []
        results.append((relax(argon(), structures, fmax=0.01, cell=cell, skin=skin, on_step=rows.append), rows))
    (one, rows_one), (other, rows_other) = results
    assert one.converged.all()
    assert len(set(one.num_steps.tolist())) == 3
    for name in ("converged", "num_steps", "energies", "max_forces"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for a, b in zip(one.structures, other.structures, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.cell, b.cell)
        np.testing.assert_array_equal(a.labels["forces"], b.labels["forces"])
    assert [row.step for row in rows_one] == [row.step for row in rows_other] == list(range(max(one.num_steps) + 1))
    for a, b in zip(rows_one, rows_other, strict=True):
        np.testing.assert_array_equal(a.energies, b.energies)
        np.testing.assert_array_equal(a.max_forces, b.max_forces)


class Interrupted(LennardJones):
    """argon() until the evaluation of this number, which ends in an interrupt."""

    def __init__(self, call: int) -> None:
        super().__init__(**ARGON, cutoff=8.0, onset=6.5)
        self.calls_left = call

    def evaluate(self, batch, graph, *, stress=False):
        self.calls_left -= 1
        if self.calls_left == 0:
            raise KeyboardInterrupt
        return super().evaluate(batch, graph, stress=stress)


@pytest.mark.parametrize("cell", [False, True])
@pytest.mark.parametrize(("steps_at_once", "skin"), [(1, 1.0), (4, 1.0), (50, 0.1)])
def test_an_interrupt_leaves_what_fewer_steps_would_have_given(monkeypatch, cell, steps_at_once, skin):
    """Also in the midst of a block whose lists fail: what is not known to be right does not come out."""
    monkeypatch.setattr(blocks, "MAX_BLOCK", steps_at_once)
    monkeypatch.setattr(blocks, "Pace", partial(Stubborn, steps_at_once))
    structures = [fcc(1, a=5.1 + 0.1 * b, seed=b, rattle=0.1 * b) for b in range(3)]
    reached = []
    for call in (2, 3, 7, 20, 33):
        with pytest.raises(RelaxInterrupted) as stop:
            relax(Interrupted(call), structures, fmax=1e-9, cell=cell, skin=skin)
        result = stop.value.result
        reached.append(int(result.num_steps.max()))
        less = relax(argon(), structures, fmax=1e-9, cell=cell, steps=reached[-1])
        for name in ("converged", "num_steps", "energies", "max_forces", "energies_start"):
            np.testing.assert_array_equal(getattr(result, name), getattr(less, name))
        for a, b in zip(result.structures, less.structures, strict=True):
            np.testing.assert_array_equal(a.positions, b.positions)
            np.testing.assert_array_equal(a.cell, b.cell)
            np.testing.assert_array_equal(a.labels["forces"], b.labels["forces"])
    assert reached[0] == 0
    assert reached[-1] > 0 if steps_at_once < 50 else reached[-1] >= 0


def test_an_interrupt_before_the_first_evaluation_is_a_plain_one():
    with pytest.raises(KeyboardInterrupt) as stop:
        relax(Interrupted(1), fcc(1))
    assert type(stop.value) is KeyboardInterrupt


def test_a_potential_that_gives_up_is_named_with_its_step():
    class Torn(LennardJones):
        """Infinite energy of the second system from the fourth evaluation on."""

        num_calls = 0

        def evaluate(self, batch, graph, *, stress=False):
            self.num_calls += 1
            output = super().evaluate(batch, graph, stress=stress)
            output.energy[1] += torch.inf if self.num_calls > 3 else 0.0
            return output

    rows = []
    with pytest.raises(ValueError, match=r"Structure 1: .* at step 3 \(energy inf"):
        relax(Torn(), [icosahedron(0.1), icosahedron(0.1)], fmax=1e-9, on_step=rows.append)
    assert [row.step for row in rows] == [0, 1, 2]
