"""Contract checks that any potential must pass, shipped so that new architectures are held to the same ones.

Each check takes a Potential and a structure, draws what it needs from ``seed``, and raises AssertionError that says
what was violated and by how much.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mosso.data.structure import Structure
from mosso.engine.potential import Potential


@dataclass(frozen=True)
class Tolerance:
    """How far two results that should be equal may differ, relative to the largest value plus one unit.

    Attributes:
        name: what a test calls it.
        exact: for transformations that should change nothing but rounding.
        difference: for comparisons with finite differences of step ``step`` Angstrom.
        step: Angstrom (or strain) of central differences.
    """

    name: str
    exact: float
    difference: float
    step: float


TIGHT = Tolerance("tight", exact=1e-10, difference=2e-6, step=1e-4)
SINGLE = Tolerance("single", exact=2e-5, difference=5e-2, step=1e-2)
TOLERANCES = {"fp64": TIGHT, "fp32": SINGLE}


def _close(name: str, got: Any, want: Any, tolerance: float) -> None:
    got, want = np.asarray(got, dtype=float), np.asarray(want, dtype=float)
    assert got.shape == want.shape, f"{name}: shape {got.shape} instead of {want.shape}"
    assert np.isfinite(got).all(), f"{name}: values are not finite"
    scale = 1.0 + (np.abs(want).max() if want.size else 0.0)
    error = np.abs(got - want).max() if want.size else 0.0
    assert error <= tolerance * scale, f"{name}: differs by {error:.3e} where {tolerance * scale:.3e} is allowed"


def _energy(potential: Potential, structure: Structure) -> float:
    return float(potential(structure, forces=False, stress=False).energy)


def _forces(potential: Potential, structure: Structure) -> np.ndarray:
    forces = potential(structure, stress=False).forces
    assert forces is not None
    return forces.cpu().numpy()


def _tolerance(potential: Potential) -> Tolerance:
    return TOLERANCES[potential.precision.name]


def check_rotation(potential: Potential, structure: Structure, seed: int = 0) -> None:
    """A random proper rotation of atoms and cell leaves the energy and turns forces and stress with it."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    rotation = q * np.sign(np.diag(r))
    _check_orthogonal(potential, structure, rotation * np.linalg.det(rotation), "rotation")


def check_inversion(potential: Potential, structure: Structure, seed: int = 0) -> None:
    """Inversion of space leaves the energy and reverses the forces."""
    _check_orthogonal(potential, structure, -np.eye(3), "inversion")


def _check_orthogonal(potential: Potential, structure: Structure, matrix: np.ndarray, name: str) -> None:
    turned = replace(structure, positions=structure.positions @ matrix.T, cell=structure.cell @ matrix.T)
    before, after = potential(structure), potential(turned)
    exact = _tolerance(potential).exact
    _close(f"energy under {name}", after.energy.cpu(), before.energy.cpu(), exact)
    _close(f"forces under {name}", after.forces.cpu(), before.forces.cpu().numpy() @ matrix.T, exact)
    if before.stress is not None:
        _close(f"stress under {name}", after.stress.cpu(), matrix @ before.stress.cpu().numpy() @ matrix.T, exact)


def check_translation(potential: Potential, structure: Structure, seed: int = 0) -> None:
    """Moving everything, and moving single atoms by lattice vectors, changes nothing."""
    rng = np.random.default_rng(seed)
    images = rng.integers(-2, 3, size=(len(structure), 3)) * structure.pbc
    moved = replace(structure, positions=structure.positions + rng.normal(size=3) + images @ structure.cell)
    exact = _tolerance(potential).exact
    _close("energy under translation", _energy(potential, moved), _energy(potential, structure), exact)
    _close("forces under translation", _forces(potential, moved), _forces(potential, structure), exact)


def check_permutation(potential: Potential, structure: Structure, seed: int = 0) -> None:
    """Renumbering atoms renumbers the forces and nothing else."""
    order = np.random.default_rng(seed).permutation(len(structure))
    shuffled = replace(structure, numbers=structure.numbers[order], positions=structure.positions[order])
    exact = _tolerance(potential).exact
    _close("energy under permutation", _energy(potential, shuffled), _energy(potential, structure), exact)
    _close("forces under permutation", _forces(potential, shuffled), _forces(potential, structure)[order], exact)


def check_extensivity(potential: Potential, structure: Structure, seed: int = 0) -> None:
    """Twice the cell has twice the energy and the same forces on every copy; a molecule is copied far away."""
    copy_at = structure.cell[0] if structure.pbc[0] else np.array([10 * potential.cutoff + np.ptp(structure.positions), 0.0, 0.0])
    doubled = replace(
        structure,
        numbers=np.tile(structure.numbers, 2),
        positions=np.concatenate([structure.positions, structure.positions + copy_at]),
        cell=structure.cell * (np.array([[2.0], [1.0], [1.0]]) if structure.pbc[0] else 1.0),
    )
    exact = _tolerance(potential).exact
    _close("energy of two copies", _energy(potential, doubled), 2 * _energy(potential, structure), exact)
    _close("forces of two copies", _forces(potential, doubled), np.tile(_forces(potential, structure), (2, 1)), exact)


def check_forces(potential: Potential, structure: Structure, seed: int = 0, num_directions: int = 6) -> None:
    """Forces are minus the derivative of the energy, along random directions by central differences."""
    rng, tolerance = np.random.default_rng(seed), _tolerance(potential)
    forces = _forces(potential, structure)
    for _ in range(num_directions):
        direction = rng.normal(size=forces.shape)
        direction /= np.linalg.norm(direction)

        def at(step: float, direction: np.ndarray = direction) -> float:
            return _energy(potential, replace(structure, positions=structure.positions + step * direction))

        _close("force along a direction", np.sum(forces * direction), -_derivative(at, tolerance.step), tolerance.difference)


def check_stress(potential: Potential, structure: Structure, seed: int = 0) -> None:
    """Stress is the derivative of the energy by strain per volume, for all six strains, by central differences."""
    tolerance = _tolerance(potential)
    stress = potential(structure, stress=True).stress
    assert stress is not None
    strains = np.zeros((3, 3))
    for a in range(3):
        for b in range(a, 3):

            def at(step: float, a: int = a, b: int = b) -> float:
                strain = np.zeros((3, 3))
                strain[a, b] += 0.5 * step
                strain[b, a] += 0.5 * step
                stretch = np.eye(3) + strain
                return _energy(potential, replace(structure, positions=structure.positions @ stretch, cell=structure.cell @ stretch))

            strains[a, b] = strains[b, a] = _derivative(at, tolerance.step)
    _close("stress times volume", stress.cpu().numpy() * structure.volume, strains, tolerance.difference)


def _derivative(function: Callable[[float], float], step: float) -> float:
    """Fourth-order central difference at zero."""
    return (8 * (function(step) - function(-step)) - (function(2 * step) - function(-2 * step))) / (12 * step)


def check_batch(potential: Potential, structures: list[Structure], seed: int = 0) -> None:
    """A batch gives every system what it gets alone."""
    exact = _tolerance(potential).exact
    for i, (together, structure) in enumerate(zip(potential(structures).split(), structures, strict=True)):
        alone = potential(structure)
        _close(f"energy of system {i} in a batch", together.energy.cpu(), alone.energy.cpu(), exact)
        _close(f"forces of system {i} in a batch", together.forces.cpu(), alone.forces.cpu(), exact)
        if alone.stress is not None:
            _close(f"stress of system {i} in a batch", together.stress.cpu(), alone.stress.cpu(), exact)


def check_smooth_cutoff(potential: Potential, seed: int = 0) -> None:
    """A pair that leaves the cutoff takes its energy and force smoothly to zero: both vanish at the cutoff."""
    first, second = potential.species[0], potential.species[-1]
    exact = _tolerance(potential).exact

    def pair(distance: float) -> Structure:
        return Structure(np.array([first, second]), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, distance]]))

    apart = _energy(potential, pair(2 * potential.cutoff))
    strongest = max(np.abs(_forces(potential, pair(d * potential.cutoff))).max() for d in (0.3, 0.5, 0.7))
    for inside in (1e-2, 1e-3):
        # The envelope has two vanishing derivatives, so the force falls at least with the square of the distance left.
        allowed = (100 * (inside / potential.cutoff) ** 2 + exact) * (1 + strongest)
        close = pair(potential.cutoff - inside)
        force, energy = np.abs(_forces(potential, close)).max(), abs(_energy(potential, close) - apart)
        assert force <= allowed, f"force {force:.2e} at {inside} A inside the cutoff, {allowed:.2e} allowed"
        assert energy <= allowed + exact * abs(apart), f"energy {energy:.2e} at {inside} A inside the cutoff, {allowed:.2e} allowed"
    _close("energy beyond the cutoff", _energy(potential, pair(potential.cutoff + 1e-6)), apart, exact)


CHECKS: tuple[Callable[..., None], ...] = (
    check_rotation,
    check_inversion,
    check_translation,
    check_permutation,
    check_extensivity,
    check_forces,
)


def check_contract(potential: Potential, structures: list[Structure], seed: int = 0) -> None:
    """Every check on every structure it applies to."""
    for structure in structures:
        for check in CHECKS:
            check(potential, structure, seed)
        if structure.volume > 0:
            check_stress(potential, structure, seed)
    check_batch(potential, structures, seed)
    check_smooth_cutoff(potential, seed)
