"""Label the H, C, N, O training set with GFN2-xTB: short Langevin trajectories, distorted copies of their frames, and scans.

    python label.py --out DIR --minutes 60 --processes 2

works through the task list of systems.py and writes one file per finished task.  A second call continues where the first one stopped.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process per core; must be set before tblite is loaded

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, covalent_radii
from ase.units import Bohr, Hartree, fs, kB
from systems import Task, build, build_points, task_list
from tblite.interface import Calculator

MAX_FORCE = 40.0  # eV/Angstrom, largest component of a kept frame
FRAMES_PER_RUN = 12
DISTORTED_PER_RUN = 4


class XTB:
    """GFN2-xTB energies and forces of one neutral system; each call starts from the density of the one before.

    The number of unpaired electrons is the smallest possible one everywhere (0 or 1).  GFN2-xTB is not spin-polarised and fills
    degenerate levels evenly, so this gives one single-valued surface from molecules down to isolated atoms.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = np.asarray(numbers)
        self.calculator: Calculator | None = None
        self.last: Any = None  # tblite Result

    def __call__(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Energy (eV) and forces (eV/Angstrom); raises RuntimeError if the SCF does not converge."""
        if self.calculator is None:
            self.calculator = Calculator("GFN2-xTB", self.numbers, positions / Bohr, charge=0, uhf=int(self.numbers.sum() % 2))
            self.calculator.set("verbosity", 0)
        else:
            self.calculator.update(positions=positions / Bohr)
        try:
            self.last = self.calculator.singlepoint(self.last)
        except Exception as error:
            self.last = None
            raise RuntimeError("SCF failed") from error
        return float(self.last.get("energy")) * Hartree, -np.array(self.last.get("gradient")) * (Hartree / Bohr)


@dataclass
class Frames:
    """Labelled frames of one task."""

    numbers: list[np.ndarray] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    energies: list[float] = field(default_factory=list)
    forces: list[np.ndarray] = field(default_factory=list)
    dropped: int = 0

    def add(self, numbers: np.ndarray, positions: np.ndarray, energy: float, forces: np.ndarray) -> None:
        """Keep the frame unless its label is broken or its forces are useless for training."""
        if not (np.isfinite(energy) and np.isfinite(forces).all()) or np.abs(forces).max() > MAX_FORCE:
            self.dropped += 1
            return
        self.numbers.append(np.asarray(numbers, np.uint8))
        self.positions.append(positions - positions.mean(0))
        self.energies.append(energy)
        self.forces.append(forces)


def relax(xtb: XTB, x: np.ndarray, steps: int) -> np.ndarray:
    """A few steps of steepest descent with a step limit: removes overlaps, keeps the packing."""
    for _ in range(steps):
        forces = xtb(x)[1]
        x = x + np.clip(0.01 * forces, -0.06, 0.06)
    return x


def trajectory(xtb: XTB, x: np.ndarray, temperature: float, start_factor: float, rng: np.random.Generator, frames: Frames) -> None:
    """Langevin dynamics (BAOAB); every n-th step becomes a frame.  It starts with velocities of ``start_factor * temperature``."""
    mass = atomic_masses[xtb.numbers][:, None]
    dt = (1.0 if temperature < 500 else 0.75 if temperature < 800 else 0.5) * fs
    stride = 16 if temperature < 800 else 22
    thermal = np.sqrt(kB * temperature / mass)
    drag = np.exp(-0.02 * dt / fs)
    noise = np.sqrt(1 - drag**2) * thermal
    v = np.sqrt(start_factor) * thermal * rng.normal(size=x.shape)
    energy, forces = xtb(x)
    for step in range(1, 2 * stride + FRAMES_PER_RUN * stride + 1):
        v += 0.5 * dt * forces / mass
        x = x + 0.5 * dt * v
        v = drag * v + noise * rng.normal(size=x.shape)
        x = x + 0.5 * dt * v
        energy, forces = xtb(x)
        v += 0.5 * dt * forces / mass
        if not np.isfinite(forces).all() or np.abs(forces).max() > 3 * MAX_FORCE:
            return
        if step > 2 * stride and step % stride == 0:
            frames.add(xtb.numbers, x, energy, forces)


def distort(x: np.ndarray, numbers: np.ndarray, owner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rattled, scaled, bond-stretched or displaced copy of a geometry: the repulsive walls that dynamics rarely visits."""
    kind = rng.choice(["rattle", "scale", "bond", "move"]) if owner.max() > 0 else rng.choice(["rattle", "scale", "bond"])
    if kind == "rattle":
        return x + rng.uniform(0.02, 0.1) * rng.normal(size=x.shape)
    if kind == "scale":
        return x * rng.uniform(0.92, 1.08)
    x = x.copy()
    if kind == "move":
        # One molecule goes towards a random other one.
        a, b = rng.permutation(owner.max() + 1)[:2]
        axis = x[owner == b].mean(0) - x[owner == a].mean(0)
        x[owner == a] += rng.uniform(0.2, 1.0) * axis / np.linalg.norm(axis)
        return x
    distance = np.linalg.norm(x[:, None] - x[None], axis=-1)
    radius = covalent_radii[numbers]
    pairs = np.argwhere(np.triu(distance < 1.25 * (radius[:, None] + radius[None]), 1))
    for i, j in pairs[rng.permutation(len(pairs))[: 1 + len(pairs) // 8]]:
        # Move the lighter end along the bond.
        i, j = (i, j) if numbers[i] >= numbers[j] else (j, i)
        x[j] = x[i] + (x[j] - x[i]) * rng.uniform(0.8, 1.4)
    return x


def run_task(task: Task) -> Frames:
    """All labels of one task."""
    frames = Frames()
    if task.kind == "points":
        for atoms in build_points(task):
            label_point(atoms, frames)
        return frames
    atoms, owner = build(task)
    rng = task.rng(3)
    xtb = XTB(atoms.numbers)
    x = atoms.positions
    try:
        if task.group != "water" and len(task.names) > 1:
            label_point(atoms, frames)  # the raw packing has the close contacts that relaxation removes
            x = relax(xtb, x, 12)
        # Near a minimum half of the kinetic energy turns into potential energy, hence twice the temperature at the start.  The water
        # clusters are cut from a warm liquid and need no such push.
        trajectory(xtb, x, task.temperature, 1.0 if task.group == "water" else 2.0, rng, frames)
    except RuntimeError:
        frames.dropped += 1
    seen = len(frames.positions)
    for _ in range(DISTORTED_PER_RUN if seen else 0):
        source = frames.positions[rng.integers(seen)]
        label_point(Atoms(atoms.numbers, distort(source, atoms.numbers, owner, rng)), frames)
    return frames


def label_point(atoms: Atoms, frames: Frames) -> None:
    """Single point from a fresh start."""
    try:
        frames.add(atoms.numbers, atoms.positions, *XTB(atoms.numbers)(atoms.positions))
    except RuntimeError:
        frames.dropped += 1


def shard_path(out: Path, task: Task) -> Path:
    """File of one finished task."""
    return out / f"task_{task.index:05d}.npz"


def finish(job: tuple[Task, Path, float]) -> str:
    """Run one task and write its shard in one atomic step; does nothing after the deadline."""
    task, out, deadline = job
    if time.time() > deadline:
        return ""
    start = time.time()
    try:
        frames = run_task(task)
    except Exception as error:  # a system that cannot be built must not stop the others
        return f"{task.index} {task.label} FAILED {type(error).__name__}: {error}"
    path = shard_path(out, task)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as handle:
        np.savez(
            handle,
            numbers=np.concatenate([*frames.numbers, np.zeros(0, np.uint8)]),
            positions=np.concatenate([*frames.positions, np.zeros((0, 3))]),
            forces=np.concatenate([*frames.forces, np.zeros((0, 3))]),
            energies=np.array(frames.energies, np.float64),
            sizes=np.array([len(n) for n in frames.numbers], np.int64),
            group=task.group,
            label=task.label,
            dropped=frames.dropped,
        )
    partial.replace(path)
    count, size = len(frames.energies), len(frames.numbers[0]) if frames.numbers else 0
    return f"{task.index} {task.label} frames {count} atoms {size} dropped {frames.dropped} seconds {time.time() - start:.1f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished tasks")
    parser.add_argument("--minutes", type=float, default=60.0, help="no task starts after this time")
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + 60 * args.minutes
    jobs = [(task, args.out, deadline) for task in task_list() if not shard_path(args.out, task).exists()]
    with get_context("spawn").Pool(args.processes) as pool:
        for line in pool.imap_unordered(finish, jobs):
            if line:
                print(line, flush=True)


if __name__ == "__main__":
    main()
