"""Model shapes, builders of atoms and the times aimed at, as data."""

import math
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
class Target:
    """Milliseconds of a call, or a step of dynamics, in fp32 on an H200: what has to be reached, and what is hoped for."""

    must: float
    aim: float


# (model, system, batch, task) -> target.
TARGETS: dict[tuple[str, str, int, str], Target] = {
    ("mace-mp0-medium", "Cu64", 1, "stress"): Target(0.8, 0.2),
    ("mace-mp0-medium", "C216", 1, "stress"): Target(1.2, 0.4),
    ("mace-mp0-medium", "Cu64", 16, "stress"): Target(3.0, 1.1),
    ("mace-mp0-medium", "C1000", 1, "stress"): Target(4.0, 1.6),
    ("mace-mp0-medium", "W3000", 1, "stress"): Target(5.5, 2.4),
    ("mace-mp0-medium", "W24000", 1, "stress"): Target(35.0, 16.0),
    ("mace-mp0-medium", "W98304", 1, "stress"): Target(145.0, 65.0),
    ("mace-mp0-medium", "W648", 1, "md"): Target(2.0, 0.67),
    ("mace-mp0-large", "C1000", 1, "stress"): Target(7.0, 3.0),
    ("mace-mp0-large", "W24000", 1, "stress"): Target(55.0, 26.0),
}
