"""The ASE calculator: numbers against finite differences, caching, and ASE's own machinery on top of it."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from mosso.interfaces.ase import Calculator


@pytest.fixture
def calculator(potential):
    return Calculator(potential)


def water() -> Atoms:
    atoms = molecule("H2O")
    atoms.rotate(31.0, (1, 2, 3))
    return atoms


def crystal() -> Atoms:
    """A rattled, sheared crystal of two species whose cell is shorter than twice the cutoff."""
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.numbers[1] = 8
    atoms.set_cell(atoms.cell.array @ np.array([[1.02, 0.03, 0], [0, 0.99, 0.02], [0.01, 0, 1.03]]), scale_atoms=True)
    atoms.rattle(0.05, seed=3)
    return atoms


def fresh(potential, atoms: Atoms, name: str = "forces"):
    """A property from a calculator that has seen nothing before."""
    return Calculator(potential).get_property(name, atoms.copy())


@pytest.mark.parametrize("make", [water, crystal])
def test_forces_are_minus_the_gradient(calculator, make):
    atoms = make()
    atoms.calc = calculator
    numeric = calculate_numerical_forces(atoms, eps=1e-4, iatoms=range(3))
    np.testing.assert_allclose(atoms.get_forces()[:3], numeric, atol=2e-6, rtol=1e-6)


def test_stress_is_the_strain_derivative(calculator):
    atoms = crystal()
    atoms.calc = calculator
    numeric = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), numeric, atol=1e-8, rtol=1e-5)
    assert atoms.get_stress().shape == (6,)
    assert atoms.get_stress(voigt=False).shape == (3, 3)


def test_energies_sum_to_the_energy(calculator):
    atoms = crystal()
    atoms.calc = calculator
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


@pytest.mark.parametrize("cell", [None, [10.0, 10.0, 0.0]])
def test_stress_without_a_full_cell_is_refused(calculator, cell):
    atoms = water()
    if cell is not None:
        atoms.set_cell(cell)
        atoms.pbc = (True, True, False)
    atoms.calc = calculator
    with pytest.raises(PropertyNotImplementedError, match="three lattice vectors"):
        atoms.get_stress()
    assert np.isfinite(atoms.get_forces()).all()


def test_each_state_is_computed_once(potential, count_calls):
    atoms = crystal()
    atoms.calc = Calculator(potential)
    atoms.get_potential_energy()
    atoms.get_forces()
    atoms.get_potential_energies()
    assert count_calls == [False], "one evaluation, without stress"
    atoms.get_stress()
    atoms.get_forces()
    assert count_calls == [False, True], "stress only once it is asked for"
    atoms.set_initial_magnetic_moments([1.0] * len(atoms))
    atoms.get_potential_energy()
    assert len(count_calls) == 2, "magnetic moments are nothing to the model"
    atoms.rattle(0.01, seed=1)
    atoms.get_forces()
    atoms.get_stress()
    assert count_calls[2:] == [True], "who asked for stress once will ask again"


def _strain(atoms):
    atoms.set_cell(atoms.cell * 1.03, scale_atoms=False)


def _swap_numbers(atoms):
    atoms.numbers[[0, 1]] = atoms.numbers[[1, 0]]


def _open(atoms):
    atoms.pbc = (True, True, False)


def _move(atoms):
    atoms.positions[2, 1] += 1e-9


def _shorten(atoms):
    del atoms[-1]


@pytest.mark.parametrize("change", [_strain, _swap_numbers, _open, _move, _shorten])
def test_any_change_is_seen(potential, change):
    atoms = crystal()
    atoms.calc = Calculator(potential)
    before = atoms.get_forces()
    stress = atoms.get_stress()
    change(atoms)
    after = atoms.get_forces()
    assert after.shape != before.shape or np.abs(after - before).max() > 0
    assert np.array_equal(after, fresh(potential, atoms)) or np.allclose(after, fresh(potential, atoms), atol=1e-12, rtol=1e-12)
    assert np.abs(atoms.get_stress() - stress).max() > 0, "stress of the earlier state must be gone"


@pytest.mark.parametrize(("key", "value"), [("charge", 1.0), ("spin", 3)])
def test_charge_and_spin_in_info_are_seen(potential, count_calls, key, value):
    atoms = water()
    atoms.calc = Calculator(potential)
    atoms.get_potential_energy()
    atoms.info["remark"] = "not for the model"
    atoms.get_potential_energy()
    assert len(count_calls) == 1
    atoms.info[key] = value
    try:  # a model for neutral singlets may refuse; it must not answer from memory
        atoms.get_potential_energy()
    except ValueError:
        return
    assert len(count_calls) == 2


def test_results_are_not_aliased(calculator):
    atoms = crystal()
    atoms.calc = calculator
    kept = atoms.get_forces()
    stress = atoms.get_stress()
    reference = kept.copy(), stress.copy()
    kept *= 0
    stress *= 0
    assert np.array_equal(atoms.get_forces(), reference[0])
    assert np.array_equal(atoms.get_stress(), reference[1])
    held = calculator.results["forces"]
    atoms.positions[0] += 0.2
    atoms.get_forces()
    assert np.array_equal(held, reference[0]), "results of an earlier state must not be overwritten"


def test_skin_list_follows_big_moves(potential):
    """A walk with small and large steps gives what lists built from nothing give."""
    rng = np.random.default_rng(5)
    atoms = crystal()
    atoms.calc = Calculator(potential, skin=0.6)
    for step in (0.01, 0.05, 0.05, 0.4, 0.02, 2.0, 0.1):
        atoms.positions += rng.uniform(-step, step, atoms.positions.shape)
        if step == 2.0:
            atoms.positions[1] = atoms.positions[0] + [1.9, 0.1, 0.0] + 3 * atoms.cell[0]
        if step == 0.4:
            atoms.set_cell(atoms.cell * 0.9, scale_atoms=False)
        np.testing.assert_allclose(atoms.get_forces(), fresh(potential, atoms), rtol=1e-9, atol=1e-9)


def test_one_calculator_serves_several_atoms(potential):
    shared = Calculator(potential)
    first, second = water(), crystal()
    expected = [fresh(potential, atoms) for atoms in (first, second)]
    for _ in range(2):
        for atoms, forces in zip((first, second), expected, strict=True):
            atoms.calc = shared
            np.testing.assert_allclose(atoms.get_forces(), forces, rtol=1e-10, atol=1e-10)


def test_an_error_leaves_nothing_behind(calculator):
    atoms = water()
    atoms.calc = calculator
    atoms.get_forces()
    good = atoms.positions.copy()
    atoms.positions[1] = np.nan
    for _ in range(2):
        with pytest.raises(ValueError, match="atom 1"):
            atoms.get_forces()
    atoms.positions = good
    assert np.isfinite(atoms.get_forces()).all()


def test_unknown_element(calculator):
    atoms = Atoms("XeO", positions=[[0, 0, 0], [0, 0, 2.0]])
    atoms.calc = calculator
    with pytest.raises(ValueError, match="Xe"):
        atoms.get_potential_energy()


def test_relaxation_of_molecule_and_cell(potential):
    atoms = water()
    atoms.calc = Calculator(potential)
    start = atoms.get_potential_energy()
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=30)
    assert atoms.get_potential_energy() < start

    solid = crystal()
    solid.calc = Calculator(potential)
    solid.set_constraint(FixAtoms([0]))
    start = solid.get_potential_energy()
    BFGS(FrechetCellFilter(solid), logfile=None, maxstep=0.05).run(fmax=0.1, steps=8)
    assert solid.get_potential_energy() < start


def test_dynamics_conserve_energy(potential):
    atoms = water()
    atoms.calc = Calculator(potential)
    BFGS(atoms, logfile=None).run(fmax=0.1, steps=40)
    atoms.set_momenta(np.random.default_rng(0).normal(scale=0.05, size=(3, 3)))
    energies = []
    dynamics = VelocityVerlet(atoms, 0.05 * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()))
    dynamics.run(40)
    assert np.ptp(energies) < 1e-3


def test_vibrations(potential, tmp_path):
    atoms = water()
    atoms.calc = Calculator(potential)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=100)
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"), delta=1e-3)
    vibrations.run()
    hessian = vibrations.get_vibrations().get_hessian_2d()
    np.testing.assert_allclose(hessian, np.asarray(potential.hessian(atoms)), atol=0.02 * np.abs(hessian).max())


def test_sum_with_another_calculator(potential):
    atoms = crystal()
    other = LennardJones(sigma=2.0, epsilon=0.1, rc=4.0, smooth=True)
    atoms.calc = SumCalculator([Calculator(potential), other])
    lone = crystal()
    lone.calc = other
    np.testing.assert_allclose(atoms.get_forces(), fresh(potential, atoms) + lone.get_forces(), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(atoms.get_stress(), fresh(potential, atoms, "stress") + lone.get_stress(), rtol=1e-10, atol=1e-12)


def test_results_travel_through_files(calculator, tmp_path):
    atoms = crystal()
    atoms.calc = calculator
    forces, stress = atoms.get_forces(), atoms.get_stress()
    for name in ("a.extxyz", "a.traj"):
        write(tmp_path / name, atoms)
        again = read(tmp_path / name)
        np.testing.assert_allclose(again.get_forces(), forces, atol=1e-7)
        np.testing.assert_allclose(again.get_stress(), stress, atol=1e-7)
