"""Build the starting geometries of the H, C, N, O training set and the list of labelling tasks.

A task is one system, one temperature and one seed.  The list is deterministic: task ``i`` depends only on ``i`` and on ``SEED``, so a run
can be stopped and resumed at any time.  Groups are interleaved, so that every prefix of the list is a balanced data set.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.collections import g2
from rdkit import Chem
from rdkit.Chem import AllChem
from water_box import bulk_water

SEED = 2019
GROUPS = ("atoms", "scans", "molecules", "organic_clusters", "water", "carbonates", "mixtures")

CARBONATES = ("COC(=O)OC", "O=C1OCCO1", "CC1COC(=O)O1", "CCOC(=O)OCC", "CCOC(=O)OC", "O=C1OC=CO1")
# Partners of the organic clusters: hydrogen-bonded and polar liquids, and some that only have dispersion.
ORGANICS = (
    "CO", "CCO", "CC(C)O", "OCCO", "C=O", "CC=O", "CC(C)=O", "COC", "C1CCOC1", "OC=O", "CC(=O)O", "COC=O", "COC(C)=O", "N", "CN", "CNC",
    "CN(C)C", "NC=O", "CC(N)=O", "CN(C)C=O", "NC(N)=O", "CC#N", "C#N", "C[N+](=O)[O-]", "c1ccccc1", "c1ccncc1", "c1c[nH]cn1", "c1cc[nH]c1",
    "C", "CC", "CCC", "C=C", "C#C", "O=C=O", "N#N", "[C-]#[O+]", "OO", "NN", "Oc1ccccc1", "NCC(=O)O",
)  # fmt: skip
SCAN_PAIRS = (
    "H-H", "H-C", "H-N", "H-O", "C-C", "C-N", "C-O", "N-N", "N-O", "O-O",
    "O...O", "O...CO", "CO...CO", "O...N", "O...C=O", "O...C", "C...C", "O...CC#N", "O...OC=O", "O...COC(=O)OC", "O...O=C1OCCO1",
    "CO...COC(=O)OC", "C...COC(=O)OC", "O=C1OCCO1...O=C1OCCO1", "N...N", "N...OC=O", "C...O=C=O", "O...O=C=O", "C=C...C=C", "O...c1ccccc1",
)  # fmt: skip
# One cycle of the task queue.  The shares of frames follow from it.
CYCLE = (
    "water", "molecules", "carbonates", "molecules", "water", "mixtures", "molecules", "carbonates", "organic_clusters", "molecules",
    "water", "carbonates",
)  # fmt: skip
N_CYCLES = 250


@dataclass(frozen=True)
class Task:
    """One trajectory or scan: ``kind`` is "md" or "points" (single points only), ``names`` the molecules in the system."""

    index: int
    group: str
    kind: str
    names: tuple[str, ...]
    temperature: float

    @property
    def label(self) -> str:
        """Readable name that goes into the packed file."""
        parts = ".".join(f"{name}*{self.names.count(name)}" for name in dict.fromkeys(self.names))
        return f"{self.group}:{parts}@{self.temperature:.0f}K"

    def rng(self, stream: int) -> np.random.Generator:
        """Random numbers of this task alone; stream 1 builds the system, stream 3 drives the dynamics."""
        return np.random.default_rng([SEED, stream, self.index])


def read_smiles() -> list[str]:
    """Molecules of smiles.txt in file order, without duplicates."""
    lines = (Path(__file__).parent / "smiles.txt").read_text().splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))


def g2_names() -> list[str]:
    """ASE's g2 molecules of H, C, N, O with at least two atoms, written ``g2/NAME``."""
    keep = [n for n in g2.names if len(molecule(n)) > 1 and set(molecule(n).get_chemical_symbols()) <= set("HCNO")]
    return [f"g2/{n}" for n in sorted(keep)]


def task_list() -> list[Task]:
    """All tasks in the order in which they are to be labelled."""
    tasks = [Task(i, "atoms", "points", (s,), 0.0) for i, s in enumerate("HCNO")]
    tasks += [Task(4 + i, "scans", "points", (pair,), 0.0) for i, pair in enumerate(SCAN_PAIRS)]
    order = np.random.default_rng([SEED, 0])
    library = read_smiles() + g2_names()
    pool: list[str] = []
    for _ in range(N_CYCLES):
        for group in CYCLE:
            index = len(tasks)
            rng = np.random.default_rng([SEED, 2, index])
            names: tuple[str, ...]
            if group == "molecules":
                # Draw without replacement, so that every molecule comes once before any comes twice.
                pool = pool or [library[i] for i in order.permutation(len(library))]
                names = (pool.pop(),)
                temperature = rng.choice([300.0, 500.0, 700.0, 1000.0])
            elif group == "water":
                names = ("O",) * int(rng.choice([8, 10, 12, 16, 20, 24, 30], p=[0.08, 0.10, 0.15, 0.25, 0.20, 0.14, 0.08]))
                temperature = rng.choice([300.0, 350.0, 450.0, 600.0], p=[0.4, 0.25, 0.2, 0.15])
            elif group == "carbonates":
                size = int(rng.choice(np.arange(1, 9), p=[0.2, 0.34, 0.2, 0.12, 0.06, 0.04, 0.02, 0.02]))
                names = tuple(sorted(rng.choice(CARBONATES, size)))
                temperature = rng.choice([300.0, 500.0, 700.0, 900.0, 1200.0, 1600.0])
            elif group == "mixtures":
                # Carbonates with other liquids, or water with them.
                first, size = (rng.choice(CARBONATES), int(rng.integers(1, 4))) if rng.random() < 0.6 else ("O", int(rng.integers(2, 7)))
                names = (str(first), *sorted(str(n) for n in rng.choice((*ORGANICS, "O", "O"), size)))
                names += ("O",) * int(rng.integers(0, 5)) if first == "O" else ()
                temperature = rng.choice([300.0, 450.0, 600.0, 900.0])
            else:
                kinds = rng.choice(ORGANICS, rng.integers(1, 3))
                names = tuple(sorted(str(n) for n in rng.choice(kinds, rng.integers(2, 6))))
                temperature = rng.choice([300.0, 450.0, 600.0, 900.0])
            tasks.append(Task(index, group, "md", names, float(temperature)))
    # Molecules are cheap: they run ahead, so that the whole library is covered early.
    return sorted(tasks, key=lambda task: (0.5 * task.index if task.group == "molecules" else task.index, task.index))


@lru_cache(maxsize=64)
def _rdkit_molecule(smiles: str) -> Chem.Mol:
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def build_molecule(name: str, seed: int) -> Atoms:
    """One conformer of a SMILES string (MMFF94 geometry) or one g2 molecule; the seed selects the conformer."""
    if name.startswith("g2/"):
        atoms = molecule(name[3:])
        return Atoms(atoms.numbers, atoms.positions)
    mol = Chem.Mol(_rdkit_molecule(name))
    # The second attempt, from random coordinates, is for cages and strained rings.
    if all(AllChem.EmbedMolecule(mol, randomSeed=seed, useRandomCoords=random) != 0 for random in (False, True)):
        raise ValueError(f"no conformer for {name}")
    if AllChem.MMFFHasAllMoleculeParams(mol):
        AllChem.MMFFOptimizeMolecule(mol)
    return Atoms([a.GetAtomicNum() for a in mol.GetAtoms()], mol.GetConformer().GetPositions())


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """Uniformly distributed proper rotation matrix."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q[:, ::-1]


def pack_cluster(parts: list[Atoms], rng: np.random.Generator, min_distance: float) -> tuple[Atoms, np.ndarray]:
    """Random compact cluster: each molecule goes to the nearest free place on a random ray from the centre.

    Returns the atoms and the molecule index of each atom.  Molecules never come closer than ``min_distance`` (Angstrom).
    """
    numbers, positions, owner = [], np.zeros((0, 3)), []
    for k, part in enumerate(parts):
        best = np.full((len(part), 3), np.inf)
        for _ in range(6):  # the most central of a few trial places keeps the cluster compact
            shape = (part.positions - part.positions.mean(0)) @ random_rotation(rng).T
            ray = rng.normal(size=3)
            ray /= np.linalg.norm(ray)
            shift = 0.0
            while len(positions) and np.linalg.norm(positions[:, None] - shape - shift * ray, axis=-1).min() < min_distance:
                shift += 0.15
            trial = shape + shift * ray
            if np.linalg.norm(trial.mean(0)) < np.linalg.norm(best.mean(0)):
                best = trial
        numbers.append(part.numbers)
        positions = np.concatenate([positions, best])
        owner += [k] * len(part)
    return Atoms(np.concatenate(numbers), positions), np.array(owner)


def build_water(count: int, rng: np.random.Generator) -> tuple[Atoms, np.ndarray]:
    """Spherical cut of ``count`` whole molecules from bulk water, in part slightly compressed or expanded."""
    frames, box = bulk_water()
    water = frames[rng.integers(len(frames))]  # (molecule, atom O H H, xyz), molecules whole
    water = water - rng.random(3) * box
    water -= box * np.round(water[:, :1] / box)
    centre = water[:, 0]
    chosen = np.argsort(np.linalg.norm(centre, axis=1))[:count]
    oxygen = centre[chosen]
    scale = rng.choice([0.94, 0.97, 1.0, 1.0, 1.0, 1.04])
    positions = (oxygen * scale)[:, None] + water[chosen] - water[chosen][:, :1]
    return Atoms([8, 1, 1] * count, positions.reshape(-1, 3)), np.repeat(np.arange(count), 3)


def build(task: Task) -> tuple[Atoms, np.ndarray]:
    """Starting geometry of an "md" task and the molecule index of each atom."""
    rng = task.rng(1)
    if task.group == "water":
        return build_water(len(task.names), rng)
    parts = [build_molecule(name, int(rng.integers(1, 2**31 - 1))) for name in task.names]
    # Now and then leave gaps: the potential must also know loosely bound pairs.
    return pack_cluster([parts[i] for i in rng.permutation(len(parts))], rng, float(rng.choice([1.9, 2.1, 2.3, 2.6, 4.0])))


def build_points(task: Task) -> list[Atoms]:
    """Geometries of a "points" task: one isolated atom, a diatomic curve or a rigid dimer scan."""
    rng, name = task.rng(1), task.names[0]
    if task.group == "atoms":
        return [Atoms(name, [[0.0, 0.0, 0.0]])]
    if "..." not in name:
        a, b = name.split("-")
        grid = np.concatenate([np.arange(0.5, 2.0, 0.05), np.arange(2.0, 6.01, 0.25)])
        return [Atoms([a, b], [[0.0, 0.0, 0.0], [0.0, 0.0, r]]) for r in grid]
    frames = []
    for _ in range(3):  # three random orientations, closest atom pair at 0.7-6 Angstrom
        pair = [build_molecule(n, int(rng.integers(1, 2**31 - 1))) for n in name.split("...")]
        first, second = ((m.positions - m.positions.mean(0)) @ random_rotation(rng).T for m in pair)
        direction = random_rotation(rng)[0]
        shifts = np.arange(0.0, 14.0, 0.02)
        gaps = np.array([np.linalg.norm(first[:, None] - second - s * direction, axis=-1).min() for s in shifts])
        for target in (0.7, 0.85, 1.0, 1.15, 1.3, 1.45, 1.6, 1.75, 1.9, 2.05, 2.2, 2.4, 2.6, 2.8, 3.1, 3.5, 4.0, 4.5, 5.0, 6.0):
            # The outermost crossing: the molecules have not passed through each other.
            inside = np.nonzero(gaps < target)[0]
            shift = shifts[min(inside[-1] + 1, len(shifts) - 1)] if len(inside) else 0.0
            frames.append(Atoms(np.concatenate([m.numbers for m in pair]), np.concatenate([first, second + shift * direction])))
    return frames
