"""Systems of the suite by name: crystals, water, molecules, a mixed set of crystals; all made from a seed, none needs a file.

Batches are that many different structures: the same atoms displaced in another way each, or other crystals altogether.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from mosso.bench import cases
from mosso.data.structure import Structure

Make = Callable[[int], Structure]


@dataclass(frozen=True)
class NamedSystem:
    """What a name stands for.

    Attributes:
        make: the structure before its atoms are displaced; takes the number of the copy in the batch.
        note: what it is.
        periodic: whether it has a volume, and so a stress.
        repeats: copies of the displaced cell along each axis, in one structure. The truth of a system too large for float64
            reference ops is that of its cell.
    """

    make: Make
    note: str
    periodic: bool = True
    repeats: cases.Repeats = (1, 1, 1)

    def cells(self, batch: int) -> list[Structure]:
        """The displaced structures before they are repeated."""
        return [cases.displaced(self.make(copy), seed=copy) for copy in range(batch)]

    def structures(self, batch: int) -> list[Structure]:
        """``batch`` structures, each displaced from a seed of its own."""
        cells = self.cells(batch)
        return cells if self.repeats == (1, 1, 1) else [cases.repeated(cell, self.repeats) for cell in cells]


# Bond lengths in Angstrom and the angle of a zigzag chain in radians.
CC, CH, CO, OH, ANGLE = 1.53, 1.09, 1.43, 0.96, math.radians(112.0)
HCH = math.radians(107.0)


def chain(num_atoms: int) -> Structure:
    """A stretched alkane of ``num_atoms`` atoms in vacuum; a hydroxyl at one end or both makes the number fit: 3 n + 2 + hydroxyls."""
    hydroxyls = (num_atoms - 2) % 3
    num_carbons = (num_atoms - 2 - hydroxyls) // 3
    if num_carbons < 2:
        raise ValueError(f"A chain of {num_atoms} atoms is too short: give 8 or more.")
    first, last = ("OH" if hydroxyls > end else "" for end in range(2))
    backbone = ["H", *first[:1], *"C" * num_carbons, *last[:1], "H"]
    lengths = [{"HC": CH, "CC": CC, "CO": CO, "HO": OH}["".join(sorted(pair, key="HCO".index))] for pair in pairwise(backbone)]
    # Bonds go up and down by turns.
    steps = [(length * math.sin(ANGLE / 2), 0.0, (-1) ** i * length * math.cos(ANGLE / 2)) for i, length in enumerate(lengths)]
    positions = np.concatenate([np.zeros((1, 3)), np.cumsum(steps, axis=0)])
    carbons = [i for i, symbol in enumerate(backbone) if symbol == "C"]
    sideways, outwards = CH * math.sin(HCH / 2), CH * math.cos(HCH / 2)
    hydrogens = [positions[i] + (0.0, side * sideways, -((-1) ** i) * outwards) for i in carbons for side in (1.0, -1.0)]
    numbers = [{"H": 1, "C": 6, "O": 8}[symbol] for symbol in backbone] + [1] * len(hydrogens)
    return Structure(np.array(numbers), np.concatenate([positions, hydrogens]), np.zeros((3, 3)), np.zeros(3, dtype=bool))


@dataclass(frozen=True)
class Prototype:
    """A cubic crystal type.

    Attributes:
        cation, anion: (n, 3) fractional positions of each.
        edge: lattice constant over the sum of the two radii.
        second: fractional positions of a second cation, the larger one of perovskites.
    """

    cation: tuple[tuple[float, float, float], ...]
    anion: tuple[tuple[float, float, float], ...]
    edge: float
    second: tuple[tuple[float, float, float], ...] = ()


_FCC = ((0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0))


def _moved(points: tuple[tuple[float, float, float], ...], by: tuple[float, float, float]) -> tuple[tuple[float, float, float], ...]:
    return tuple((x + by[0], y + by[1], z + by[2]) for x, y, z in points)


PROTOTYPES = {
    "caesium chloride": Prototype(((0.0, 0.0, 0.0),), ((0.5, 0.5, 0.5),), 2 / math.sqrt(3)),
    "rock salt": Prototype(_FCC, _moved(_FCC, (0.5, 0.0, 0.0)), 2.0),
    "zinc blende": Prototype(_FCC, _moved(_FCC, (0.25, 0.25, 0.25)), 4 / math.sqrt(3)),
    "fluorite": Prototype(_FCC, _moved(_FCC, (0.25, 0.25, 0.25)) + _moved(_FCC, (0.75, 0.75, 0.75)), 4 / math.sqrt(3)),
    "perovskite": Prototype(((0.0, 0.0, 0.0),), ((0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5)), 2.0, ((0.5, 0.5, 0.5),)),
}
# Atomic number -> ionic radius in Angstrom for six neighbours (Shannon 1976).
CATIONS = {
    3: 0.76, 11: 1.02, 12: 0.72, 13: 0.535, 19: 1.38, 20: 1.00, 22: 0.605, 25: 0.83, 26: 0.78, 27: 0.745, 28: 0.69, 30: 0.74,
    38: 1.18, 39: 0.90, 40: 0.72, 47: 1.15, 49: 0.80, 50: 0.69, 56: 1.35, 57: 1.03, 58: 0.87, 82: 1.19,
}  # fmt: skip
ANIONS = {7: 1.46, 8: 1.40, 9: 1.33, 16: 1.84, 17: 1.81, 34: 1.98, 35: 1.96}
LARGE = (19, 20, 38, 56, 57, 82)  # second cations of perovskites
MIN_ATOMS, MAX_ATOMS, STRAIN = 4, 60, 0.03


def crystal(copy: int) -> Structure:
    """One of a set of ionic crystals of 4 to 60 atoms: type, elements, repeats and a strain of a few per cent drawn from ``copy``."""
    random = np.random.default_rng([20, copy])
    kind = PROTOTYPES[random.choice(list(PROTOTYPES))]
    cation, anion = int(random.choice(list(CATIONS))), int(random.choice(list(ANIONS)))
    numbers = [cation] * len(kind.cation) + [anion] * len(kind.anion)
    numbers += [int(random.choice(LARGE)) for _ in kind.second]
    cell = kind.edge * (CATIONS[cation] + ANIONS[anion]) * np.eye(3)
    basis = np.array(kind.cation + kind.anion + kind.second)
    boxes = [r for r in np.ndindex(5, 5, 5) if MIN_ATOMS <= math.prod(r) * len(basis) <= MAX_ATOMS and max(r) <= 2 * max(min(r), 1)]
    repeats = boxes[random.integers(len(boxes))]
    strain = np.eye(3) + STRAIN * random.uniform(-1.0, 1.0, size=(3, 3))
    unit = Structure(np.array(numbers), basis @ cell @ strain, cell @ strain, np.ones(3, dtype=bool))
    return cases.repeated(unit, repeats)


def water_box(shape: cases.Repeats) -> Structure:
    """Molecules on a lattice of ``shape`` at 1 g/cm^3, every one turned in its own way: 3 a b c atoms."""
    cube = cases.water(max(shape))
    kept = [i for i, place in enumerate(np.ndindex(*(3 * [max(shape)]))) if all(p < n for p, n in zip(place, shape, strict=True))]
    atoms = (3 * np.array(kept)[:, None] + np.arange(3)).ravel()
    cell = np.diag(np.array(shape) * cube.cell[0, 0] / max(shape))
    return replace(cube, numbers=cube.numbers[atoms], positions=cube.positions[atoms], cell=cell)


def _constant(make: Callable[[], Structure]) -> Make:
    return lambda copy: make()


WATER = {f"W{3 * side**3}": side for side in (2, 3, 4, 5, 6, 7, 8, 10, 12)}
# Copies of a smaller box in one cell: sides of the box, copies along each axis.
COPIES = {"W24000": (10, 2), "W98304": (8, 4)}
DIAMOND = {f"C{8 * side**3}": side for side in (1, 2, 3, 4, 5)}
MOLECULES = {f"chain{count}": count for count in (25, 50, 100)}
# Needs a file of the user's: dihydrofolate reductase in water, 23,558 atoms.
DHFR = "DHFR"

SYSTEMS: dict[str, NamedSystem] = {
    "Cu64": NamedSystem(_constant(partial(cases.copper, 4)), "fcc copper, 4 x 4 x 4 primitive cells"),
    **{name: NamedSystem(_constant(partial(cases.diamond, side)), "diamond") for name, side in DIAMOND.items()},
    "mixed": NamedSystem(crystal, "ionic crystals of 4 to 60 atoms and many elements, another one in every place of a batch"),
    **{name: NamedSystem(_constant(partial(cases.water, side)), "water, 1 g/cm3") for name, side in WATER.items()},
    **{
        name: NamedSystem(
            _constant(partial(cases.water, side)), f"{count}^3 boxes of W{3 * side**3} in one cell", repeats=(count, count, count)
        )
        for name, (side, count) in COPIES.items()
    },
    **{name: NamedSystem(_constant(partial(chain, n)), "alkane or alcohol in vacuum", periodic=False) for name, n in MOLECULES.items()},
}


def from_files(files: Mapping[str, Path]) -> dict[str, NamedSystem]:
    """Systems of the user's, one structure a file.

    Raises:
        ValueError, FileNotFoundError: a file that cannot be read, or holds several structures.
    """
    return {name: _from_file(name, path) for name, path in files.items()}


def _from_file(name: str, path: Path) -> NamedSystem:
    from mosso.data.readers import read_structures

    found = read_structures(path)
    if len(found) != 1:
        raise ValueError(f"{path} holds {len(found)} structures: give {name} a file with one.")
    return NamedSystem(lambda copy: found[0], str(path.name), periodic=found[0].volume > 0)
