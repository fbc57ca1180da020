"""What is measured: model shapes and systems, as data."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mosso.data.structure import Structure
from mosso.models.mace import MACESpec

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


# Name -> the batch that is evaluated in one call.
SYSTEMS: dict[str, Callable[[], list[Structure]]] = {
    "Cu64": lambda: [copper(4)],
    "Cu64x16": lambda: [copper(4)] * 16,
    "C8": lambda: [diamond(1)],
    "C216": lambda: [diamond(3)],
    "C1000": lambda: [diamond(5)],
    "W24": lambda: [water(2)],
    "W648": lambda: [water(6)],
    "W3000": lambda: [water(10)],
    "W8232": lambda: [water(14)],
    "W24000": lambda: [water(20)],
    "W98304": lambda: [water(32)],
}
