"""Structures chosen to hurt, for the tests of every room: fixed seeds, the same in every run."""

import numpy as np

from mosso.data.structure import Structure


def lattice(a: float, b: float, c: float, alpha: float, beta: float, gamma: float) -> np.ndarray:
    """(3, 3) cell from lengths (A) and angles (degrees), right-handed."""
    cos_a, cos_b, cos_g = np.cos(np.radians([alpha, beta, gamma]))
    sin_g = np.sin(np.radians(gamma))
    third = np.array([cos_b, (cos_a - cos_b * cos_g) / sin_g, 0.0])
    third[2] = np.sqrt(1.0 - third @ third)
    return np.array([[a, 0.0, 0.0], [b * cos_g, b * sin_g, 0.0], c * third])


def scattered(cell: np.ndarray, num_atoms: int, apart: float, seed: int) -> np.ndarray:
    """(num_atoms, 3) random positions in ``cell``, all periodic images at least ``apart`` A from each other."""
    rng = np.random.default_rng(seed)
    images = np.array(np.meshgrid(*[np.arange(-3, 4)] * 3)).reshape(3, -1).T @ cell
    positions: list[np.ndarray] = []
    while len(positions) < num_atoms:
        trial = rng.random(3) @ cell
        if all(np.linalg.norm(trial - other + images, axis=1).min() > apart for other in positions):
            positions.append(trial)
    return np.array(positions)


def crystal(cell: np.ndarray, fractions: np.ndarray, numbers: list[int], repeat: int = 1, rattle: float = 0.0, seed: int = 0) -> Structure:
    """``repeat`` cubed copies of a unit cell, atoms displaced by normal noise of ``rattle`` A."""
    steps = np.array(np.meshgrid(*[np.arange(repeat)] * 3, indexing="ij")).reshape(3, -1).T
    positions = ((steps[:, None] + np.asarray(fractions)) @ cell).reshape(-1, 3)
    positions += rattle * np.random.default_rng(seed).standard_normal(positions.shape)
    return Structure(np.tile(numbers, len(steps)), positions, cell * repeat, True)


FCC = 0.5 * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
FCC_SITES = np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])


def copper_primitive() -> Structure:
    """One atom in a cell much smaller than any cutoff."""
    return crystal(3.61 * FCC, np.zeros((1, 3)), [29])


def copper(repeat: int = 2, rattle: float = 0.1, seed: int = 0) -> Structure:
    """Face-centred cubic Cu, 4 repeat^3 atoms, rattled."""
    return crystal(3.61 * np.eye(3), FCC_SITES, [29] * 4, repeat, rattle, seed)


def diamond(repeat: int = 1, rattle: float = 0.0, seed: int = 0) -> Structure:
    """Diamond, 8 repeat^3 atoms; perfect by default, so that many distances coincide."""
    return crystal(3.567 * np.eye(3), np.concatenate([FCC_SITES, FCC_SITES + 0.25]), [6] * 8, repeat, rattle, seed)


def rocksalt_slab(layers: int = 3, seed: int = 0) -> Structure:
    """(001) slab of MgO, rattled; periodic in the plane, the third lattice vector zero."""
    a = 4.21
    sites = [(0.5 * a * x, 0.5 * a * y, 0.5 * a * z) for z in range(layers) for x in range(2) for y in range(2)]
    numbers = [12 if (x + y + z) % 2 == 0 else 8 for z in range(layers) for x in range(2) for y in range(2)]
    positions = np.array(sites) + 0.05 * np.random.default_rng(seed).standard_normal((len(sites), 3))
    return Structure(numbers, positions, np.diag([a, a, 0.0]), (True, True, False))


def dimer(distance: float, numbers: tuple[int, int] = (8, 8)) -> Structure:
    """Two atoms ``distance`` A apart along a direction without zeros, no cell."""
    direction = np.array([2.0, 3.0, 6.0]) / 7.0
    return Structure(numbers, np.array([np.zeros(3), distance * direction]) + 0.3)


def water_molecule(rotation: np.ndarray | None = None) -> Structure:
    """H2O at its gas-phase geometry (0.9572 A, 104.52 degrees), O first."""
    half = np.radians(104.52) / 2
    positions = 0.9572 * np.array([[0.0, 0.0, 0.0], [np.sin(half), np.cos(half), 0.0], [-np.sin(half), np.cos(half), 0.0]])
    return Structure([8, 1, 1], positions if rotation is None else positions @ rotation.T)


def water_box(num_side: int, seed: int = 0) -> Structure:
    """Cubic periodic box of num_side^3 water molecules at 1 g/cm^3, on a lattice, turned at random: 3 num_side^3 atoms."""
    rng = np.random.default_rng(seed)
    spacing = 3.104  # A: the edge of the cube one molecule fills at 1 g/cm^3
    molecule = water_molecule().positions
    sites = (np.array(np.meshgrid(*[np.arange(num_side)] * 3, indexing="ij")).reshape(3, -1).T + 0.5) * spacing
    turns = np.linalg.qr(rng.standard_normal((len(sites), 3, 3)))[0]
    positions = sites[:, None] + np.einsum("mij,aj->mai", turns, molecule)
    return Structure(np.tile([8, 1, 1], len(sites)), positions.reshape(-1, 3), spacing * num_side * np.eye(3), True)


def _random(cell: np.ndarray, pbc: tuple[bool, bool, bool], num_atoms: int, seed: int, cells_away: float = 0.0) -> Structure:
    """Random atoms of four elements, ``cells_away`` cells (standard deviation) outside along the periodic directions."""
    rng = np.random.default_rng(seed + 1000)
    positions = scattered(cell, num_atoms, 0.7, seed)
    away = np.round(cells_away * rng.standard_normal((num_atoms, 3))) * np.array(pbc)
    return Structure(rng.choice([1, 6, 7, 8], num_atoms), positions + away @ cell, cell, pbc)


def _without_vectors(structure: Structure) -> Structure:
    """The same, with zeros for the lattice vectors that are not periodic."""
    return Structure(structure.numbers, structure.positions, structure.cell * structure.pbc[:, None], structure.pbc)


def awkward(cutoff: float = 3.0) -> dict[str, Structure]:
    """Every kind of system that neighbour lists, models and writers tend to get wrong, by name.

    ``cutoff`` (A) places the dimers just inside, just outside and exactly at it.
    """
    triclinic = lattice(5.0, 6.0, 7.0, 70.0, 80.0, 100.0)
    skewed = lattice(6.0, 6.5, 7.0, 25.0, 26.0, 27.0)
    sheared = np.array([[3.0, 0.0, 0.0], [0.4, 4.0, 0.0], [11.0, -9.0, 5.0]])
    slab, chain = (True, True, False), (False, True, False)
    return {
        "triclinic": _random(triclinic, (True, True, True), 10, seed=1),
        "skewed": _random(skewed, (True, True, True), 5, seed=2),
        "sheared": _random(sheared, (True, True, True), 5, seed=3),
        "left-handed": _random(triclinic[[1, 0, 2]], (True, True, True), 10, seed=4),
        "far outside": _random(triclinic, (True, True, True), 10, seed=5, cells_away=4.0),
        "slab": _random(triclinic, slab, 8, seed=6),
        "slab without third vector": _without_vectors(_random(triclinic, slab, 8, seed=7)),
        "slab with middle open, far outside": _random(sheared, (True, False, True), 6, seed=8, cells_away=4.0),
        "chain": _random(skewed, chain, 6, seed=9, cells_away=2.0),
        "chain without other vectors": _without_vectors(_random(triclinic, chain, 6, seed=10, cells_away=2.0)),
        "open with a cell": _random(triclinic, (False, False, False), 8, seed=11),
        "open without a cell": _without_vectors(_random(triclinic, (False, False, False), 8, seed=12)),
        "one atom in a small cell": copper_primitive(),
        "isolated atom": Structure([18], [[1e3, -2e3, 5.0]]),
        "two atoms far apart": Structure([18, 18], [[0.0, 0.0, 0.0], [3e4, -2e5, 1e5]]),
        "no atoms": Structure([], np.zeros((0, 3))),
        "no atoms in a cell": Structure([], np.zeros((0, 3)), np.eye(3), True),
        "dimer just inside": dimer(cutoff * (1 - 1e-12)),
        "dimer at the cutoff": Structure([8, 8], [[0.0, 0.0, 0.0], [cutoff, 0.0, 0.0]]),
        "dimer just outside": dimer(cutoff * (1 + 1e-12)),
        "water molecule": water_molecule(),
        "rattled copper": copper(),
        "diamond": diamond(),
        "rocksalt slab": rocksalt_slab(),
    }
