"""Frames: a labelled data set as flat arrays in host memory, and its split into training and validation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosso.train.config import DataConfig, digest


@dataclass(frozen=True, eq=False)
class Frames:
    """F labelled frames with N atoms in all.

    Attributes:
        numbers_N: (N,) int64.
        positions_N3: (N, 3) float64, Angstrom.
        forces_N3: (N, 3) float64, eV/A.
        energy_F: (F,) float64, eV.
        offsets: (F + 1,) int64; atoms of frame f are offsets[f]:offsets[f+1].
        cell_F33: (F, 3, 3) float64, Angstrom; zero without periodicity.
        pbc_F3: (F, 3) bool.
        group_F: (F,) int64, index into ``group_names``; errors are reported per group.
        task_F: (F,) int64; frames of one task (a trajectory) are never divided between training and validation.
        group_names: names of the groups.
    """

    numbers_N: np.ndarray
    positions_N3: np.ndarray
    forces_N3: np.ndarray
    energy_F: np.ndarray
    offsets: np.ndarray
    cell_F33: np.ndarray
    pbc_F3: np.ndarray
    group_F: np.ndarray
    task_F: np.ndarray
    group_names: tuple[str, ...]

    def __post_init__(self) -> None:
        num_frames, num_atoms = len(self.energy_F), len(self.numbers_N)
        shapes = {
            "positions": (self.positions_N3.shape, (num_atoms, 3)),
            "forces": (self.forces_N3.shape, (num_atoms, 3)),
            "offsets": (self.offsets.shape, (num_frames + 1,)),
            "group": (self.group_F.shape, (num_frames,)),
            "task": (self.task_F.shape, (num_frames,)),
        }
        for name, (found, expected) in shapes.items():
            if found != expected:
                raise ValueError(f"The data set is inconsistent: `{name}` has shape {found}, expected {expected}.")
        if num_frames == 0 or self.offsets[0] != 0 or self.offsets[-1] != num_atoms or (np.diff(self.offsets) < 1).any():
            raise ValueError("The data set is inconsistent: `offsets` must ascend from 0 to the number of atoms.")
        for name, values in (("positions", self.positions_N3), ("forces", self.forces_N3), ("energies", self.energy_F)):
            if not np.isfinite(values).all():
                raise ValueError(f"The data set has `{name}` that are not finite: remove those frames first.")

    def __len__(self) -> int:
        return len(self.energy_F)

    @property
    def num_atoms_F(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def periodic(self) -> bool:
        return bool(self.pbc_F3.any())

    @property
    def digest(self) -> str:
        """Fingerprint of content and order."""
        labels = (self.numbers_N, self.positions_N3, self.forces_N3, self.energy_F, self.offsets)
        return digest(*labels, self.cell_F33, self.pbc_F3, self.group_F, self.task_F)


def read_frames(config: DataConfig) -> Frames:
    """The data set named in the configuration: ``.npz`` with flat arrays, or anything ``mosso.data.readers`` knows."""
    path = Path(config.path)
    if not path.exists():
        raise ValueError(f"There is no data set at {path}: set data.path in the recipe.")
    return _read_npz(path, config.split_by) if path.suffix == ".npz" else _read_structures(path, config)


def _read_npz(path: Path, split_by: str) -> Frames:
    with np.load(path, allow_pickle=False) as file:
        # Without tasks every frame stands alone; any other array to split by has to be there.
        needed = {"numbers", "positions", "forces", "energies", "offsets"} | ({split_by} - {"task"})
        missing = needed - set(file.files)
        if missing:
            raise ValueError(f"{path} has no array called {', '.join(sorted(missing))}.")
        arrays: dict[str, Any] = {name: file[name] for name in file.files}
    num_frames = len(arrays["energies"])
    return Frames(
        numbers_N=arrays["numbers"].astype(np.int64),
        positions_N3=arrays["positions"].astype(np.float64),
        forces_N3=arrays["forces"].astype(np.float64),
        energy_F=arrays["energies"].astype(np.float64),
        offsets=arrays["offsets"].astype(np.int64),
        cell_F33=arrays.get("cells", np.zeros((num_frames, 3, 3))).astype(np.float64),
        pbc_F3=arrays.get("pbc", np.zeros((num_frames, 3))).astype(bool),
        group_F=arrays.get("group", np.zeros(num_frames)).astype(np.int64),
        task_F=arrays.get(split_by, np.arange(num_frames)).astype(np.int64),
        group_names=tuple(str(name) for name in arrays.get("group_names", ["all"])),
    )


def _read_structures(path: Path, config: DataConfig) -> Frames:
    from mosso.data.readers import read_structures

    structures = list(read_structures(path, energy_key=config.energy_key, forces_key=config.forces_key))
    for index, structure in enumerate(structures):
        missing = {"energy", "forces"} - set(structure.labels)
        if missing:
            absent = " and no ".join(sorted(missing))
            raise ValueError(f"Frame {index} of {path} has no {absent}: check data.energy_key and data.forces_key.")
    if not structures:
        raise ValueError(f"{path} has no frames.")
    names = [str(s.info.get("group", s.info.get("config_type", "all"))) for s in structures]
    group_names, group_F = np.unique(names, return_inverse=True)
    tasks = [str(s.info.get("task", f"frame {index}")) for index, s in enumerate(structures)]
    return Frames(
        numbers_N=np.concatenate([s.numbers for s in structures]),
        positions_N3=np.concatenate([s.positions for s in structures]),
        forces_N3=np.concatenate([np.asarray(s.labels["forces"], dtype=np.float64) for s in structures]),
        energy_F=np.array([float(s.labels["energy"]) for s in structures]),
        offsets=np.concatenate([[0], np.cumsum([len(s) for s in structures])]).astype(np.int64),
        cell_F33=np.stack([s.cell for s in structures]),
        pbc_F3=np.stack([s.pbc for s in structures]),
        group_F=group_F.astype(np.int64),
        task_F=np.unique(tasks, return_inverse=True)[1].astype(np.int64),
        group_names=tuple(str(name) for name in group_names),
    )


def split_by_task(frames: Frames, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame indices for training and validation, ascending.

    Whole tasks move, ``fraction`` of those of every group, so that no trajectory is on both sides and every group with at
    least two tasks is validated. Tasks with isolated atoms stay in training, because they define E0.
    """
    fixed = set(frames.task_F[frames.num_atoms_F == 1].tolist())
    rng = np.random.default_rng(seed)
    held_out: set[int] = set()
    first_group = {int(t): int(g) for t, g in zip(frames.task_F[::-1], frames.group_F[::-1], strict=True)}
    for group in range(int(frames.group_F.max()) + 1):
        tasks = sorted(task for task, g in first_group.items() if g == group)
        movable = [task for task in tasks if task not in fixed]
        count = min(max(1, round(fraction * len(tasks))), len(movable)) if len(tasks) > 1 else 0
        held_out.update(movable[i] for i in rng.permutation(len(movable))[:count])
    is_validation = np.isin(frames.task_F, sorted(held_out))
    if not is_validation.any() or is_validation.all():
        raise ValueError("The data set has too few tasks to split: give it at least two, or change data.validation_fraction.")
    return np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
