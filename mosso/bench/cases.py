"""What is measured: model shapes, systems and the times aimed at, as data."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mosso.data.structure import Structure
from mosso.models.mace import MACESpec

Repeats = tuple[int, int, int]

# The shape of MACE-MP-0 medium with 89 elements; random weights do for timing.
MP0_MEDIUM = MACESpec(
    species=tuple(range(1, 90)),
    r_max=6.0,
    num_bessel=10,
    num_polynomial_cutoff=5,
    max_ell=3,
    hidden_irreps="128x0e+128x1o",
    correlation=(3, 3),
    interactions=("RealAgnosticResidual",) * 2,
    radial_mlp=(64, 64, 64),
    readout_mlp=16,
    heads=("default",),
    avg_num_neighbors=(61.96, 61.96),
    distance_transform="none",
    pair_repulsion=False,
    scale_shift=True,
    activation_constant=1.6791767923989418,
)
MODELS = {"mace-mp0-medium": MP0_MEDIUM, "mace-mp0-large": replace(MP0_MEDIUM, hidden_irreps="128x0e+128x1o+128x2e")}


def _crystal(number: int, basis: np.ndarray, cell: np.ndarray, repeats: int) -> Structure:
    """``repeats``^3 copies of a cell with atoms at ``basis`` (fractional)."""
    grid = np.stack(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = ((grid + basis) @ cell).reshape(-1, 3)
    return Structure(np.full(len(positions), number), positions, repeats * cell, np.ones(3, dtype=bool))


def copper(repeats: int) -> Structure:
    """fcc copper in primitive cells, a = 3.61 Angstrom: repeats^3 atoms."""
    return _crystal(29, np.zeros((1, 3)), 0.5 * 3.61 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]), repeats)


def diamond(repeats: int) -> Structure:
    """Diamond in cubic cells, a = 3.567 Angstrom: 8 repeats^3 atoms."""
    face_centred = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    return _crystal(6, np.concatenate([face_centred, face_centred + 0.25]), 3.567 * np.eye(3), repeats)


def water(num_side: int, seed: int = 0) -> Structure:
    """num_side^3 rigid water molecules, turned at random on a lattice, at 1 g/cm^3: 3 num_side^3 atoms."""
    rng, spacing, bond, angle = np.random.default_rng(seed), 3.104, 0.9572, 1.824  # Angstrom, radians
    oxygen = spacing * (np.stack(np.meshgrid(*[np.arange(num_side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) + 0.5)
    first = rng.normal(size=oxygen.shape)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    across = np.cross(first, rng.normal(size=oxygen.shape))
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    second = np.cos(angle) * first + np.sin(angle) * across
    positions = np.stack([oxygen, oxygen + bond * first, oxygen + bond * second], axis=1).reshape(-1, 3)
    return Structure(np.tile([8, 1, 1], len(oxygen)), positions, num_side * spacing * np.eye(3), np.ones(3, dtype=bool))


def displaced(structure: Structure, seed: int, amplitude: float = 0.1) -> Structure:
    """Every coordinate moved by a normal number of ``amplitude`` Angstrom, about what 300 K does: forces of perfect lattices cancel."""
    noise = np.random.default_rng(seed).normal(size=structure.positions.shape)
    return replace(structure, positions=structure.positions + amplitude * noise)


def repeated(structure: Structure, repeats: Repeats) -> Structure:
    """Copies side by side in one cell, copy after copy: what one atom feels is what it feels in the small cell."""
    grid = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions = (grid @ structure.cell + structure.positions).reshape(-1, 3)
    numbers = np.tile(structure.numbers, math.prod(repeats))
    return Structure(numbers, positions, np.array(repeats)[:, None] * structure.cell, structure.pbc)


@dataclass(frozen=True)
class System:
    """A batch that is evaluated in one call.

    Attributes:
        make: the structure before its atoms are displaced.
        copies: structures in the batch, each displaced in its own way.
        repeats: copies of the displaced cell along each axis, in one structure. The truth of a system too large for float64
            reference ops is then that of its cell.
    """

    make: Callable[[], Structure]
    copies: int = 1
    repeats: Repeats = (1, 1, 1)

    def cells(self) -> list[Structure]:
        """The displaced structures before they are repeated."""
        return [displaced(self.make(), seed) for seed in range(self.copies)]

    def structures(self) -> list[Structure]:
        """What is evaluated."""
        return [repeated(cell, self.repeats) for cell in self.cells()]


SYSTEMS: dict[str, System] = {
    "Cu64": System(lambda: copper(4)),
    "Cu64x16": System(lambda: copper(4), copies=16),
    "C8": System(lambda: diamond(1)),
    "C216": System(lambda: diamond(3)),
    "C1000": System(lambda: diamond(5)),
    "W24": System(lambda: water(2)),
    "W648": System(lambda: water(6)),
    "W1536": System(lambda: water(8)),
    "W3000": System(lambda: water(10)),
    "W8232": System(lambda: water(14)),
    "W24000": System(lambda: water(10), repeats=(2, 2, 2)),
    "W98304": System(lambda: water(8), repeats=(4, 4, 4)),
}

# The rows of the table.
TABLE: dict[str, tuple[str, ...]] = {
    "mace-mp0-medium": ("Cu64", "C216", "Cu64x16", "C1000", "W3000", "W24000", "W98304"),
    "mace-mp0-large": ("C1000", "W24000"),
}


@dataclass(frozen=True)
class Target:
    """Milliseconds of energy, forces and stress in fp32: what has to be reached, and what is hoped for."""

    must: float
    aim: float


# (model, system) -> target; rows without one show none.
TARGETS: dict[tuple[str, str], Target] = {
    ("mace-mp0-medium", "Cu64"): Target(0.8, 0.2),
    ("mace-mp0-medium", "C216"): Target(1.2, 0.4),
    ("mace-mp0-medium", "Cu64x16"): Target(3.0, 1.1),
    ("mace-mp0-medium", "C1000"): Target(4.0, 1.6),
    ("mace-mp0-medium", "W3000"): Target(5.5, 2.4),
    ("mace-mp0-medium", "W24000"): Target(35.0, 16.0),
    ("mace-mp0-medium", "W98304"): Target(145.0, 65.0),
    ("mace-mp0-large", "C1000"): Target(7.0, 3.0),
    ("mace-mp0-large", "W24000"): Target(55.0, 26.0),
}
