"""Files a simulation writes as it goes: trajectories (extended xyz, ASE .traj) and the log table (CSV).

What has been written stays readable whatever happens later: each frame goes out in one piece and is flushed, and going
on after an interruption first cuts what is incomplete or lies beyond the step one resumes from.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import torch

from mosso.data.readers import read_structures
from mosso.data.writers import AseTrajectory
from mosso.dynamics.simulate import LogRow
from mosso.dynamics.state import State
from mosso.models.base import name_elements


class _Closing:
    """``with`` for things with close()."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class TrajectoryWriter(_Closing):
    """Writes States as frames; to be given to ``simulate`` as ``on_frame``.

    A frame has positions, cell, energy, forces, stress when there, momenta (ASE's unit), and in its info ``step``, ``time``
    (fs) and, when there are several, ``system``; the frames of all systems at one step follow each other.

    Args:
        path: ``.extxyz`` or ``.xyz`` for extended xyz, ``.traj`` for ASE's format.
        append: keep what is there.
        last_step: with ``append``, the step one resumes from; later frames are cut, those up to it not written again.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False, last_step: int | None = None) -> None:
        self.path = Path(path)
        writers: dict[str, Callable[..., _Extxyz | AseTrajectory]] = {".extxyz": _Extxyz, ".xyz": _Extxyz, ".traj": AseTrajectory}
        if self.path.suffix not in writers:
            raise ValueError(f"Trajectories are written as .extxyz, .xyz or .traj, not {self.path.suffix or 'without a suffix'}: {path}.")
        append = append and self.path.exists() and self.path.stat().st_size > 0
        self._writer = writers[self.path.suffix](self.path, append, last_step)
        self._written = last_step if append and last_step is not None else -1

    def __call__(self, state: State) -> None:
        if int(state.step) <= self._written:
            return
        for frame in _frames(state):
            self._writer.write(frame)

    def close(self) -> None:
        self._writer.close()


def _frames(state: State) -> Iterator[dict[str, Any]]:
    """One dictionary of host arrays per system."""
    batch = state.batch
    per_atom = {"numbers": batch.numbers_N, "positions": batch.positions_N3, "momenta": state.momenta_N3, "forces": state.forces_N3}
    per_atom |= {"masses": state.masses_N, "free": state.free_N}
    per_system = {"cell": batch.cell_B33, "pbc": batch.pbc_B3, "energy": state.energy_B}
    if state.stress_B33 is not None:
        per_system["stress"] = state.stress_B33
    atoms = {name: _host(value) for name, value in per_atom.items()}
    systems = {name: _host(value) for name, value in per_system.items()}
    info = {"step": int(state.step), "time": float(state.time)}
    for b, (first, last) in enumerate(zip(batch.offsets, batch.offsets[1:], strict=False)):
        frame: dict[str, Any] = {name: value[first:last] for name, value in atoms.items()}
        frame |= {name: value[b] for name, value in systems.items()}
        frame["info"] = {**info, "system": b} if batch.num_systems > 1 else info
        yield frame


def _host(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


_AT_ONCE = 256  # frames of a .traj in memory


def require_steps(path: str | os.PathLike[str], steps: Iterable[int], num_systems: int = 1) -> None:
    """ValueError unless a trajectory or log table holds each of these steps of all systems, whole.

    For who resumes: frames that were lost since would be missing in the midst of the file, and nobody told.
    """
    path, wanted = Path(path), sorted(steps)
    found = Counter(_steps_in(path) if path.exists() else ())
    missing = [step for step in wanted if found[step] < num_systems]
    if missing:
        what = f"lacks step {missing[0]}" if path.exists() else "is not there"
        raise ValueError(f"{path} {what}, but the run was at step {wanted[-1]} already: put the whole file back, or start a new run.")


def _steps_in(path: Path) -> Iterator[int]:
    """Steps of what is whole, up to the first damage."""
    if path.suffix == ".traj":
        for first in itertools.count(0, _AT_ONCE):
            try:
                frames = read_structures(path, slice(first, first + _AT_ONCE))
            except ValueError:  # the end, or damage, which ASE does not tell apart
                return
            yield from (frame.info.get("step", -1) for frame in frames)
        return
    with open(path, "rb") as file:
        for step, _ in _lines_of(file) if path.suffix == ".csv" else _frames_of(file):
            yield step


class _Extxyz:
    """Extended xyz, each frame in one write."""

    def __init__(self, path: Path, append: bool, last_step: int | None) -> None:
        if append:
            _cut(path, _frames_of, last_step)
        self._file = open(path, "ab" if append else "wb")  # noqa: SIM115

    def write(self, frame: dict[str, Any]) -> None:
        self._file.write(_extxyz(frame).encode())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _extxyz(frame: dict[str, Any]) -> str:
    """One frame as text. Columns not periodic keep their lattice vectors where there are any."""

    def matrix(values: np.ndarray) -> str:
        return '"' + " ".join(f"{x:.12g}" for x in values.reshape(-1)) + '"'

    numbers = frame["numbers"]
    keys = [f"Lattice={matrix(frame['cell'])}"] if frame["cell"].any() else []
    mask = "" if frame["free"].all() else ":move_mask:L:1"
    keys += [f"Properties=species:S:1:pos:R:3:momenta:R:3:forces:R:3{mask}", f"energy={float(frame['energy'])!r}"]
    if "stress" in frame and frame["pbc"].all():
        keys.append(f"stress={matrix(frame['stress'])}")
    keys += [f"{name}={value!r}" for name, value in frame["info"].items()]
    keys.append('pbc="' + " ".join("T" if p else "F" for p in frame["pbc"]) + '"')
    symbols = {int(z): name_elements([int(z)]) for z in np.unique(numbers)}
    columns = np.concatenate([frame["positions"], frame["momenta"], frame["forces"]], axis=1)
    row = "%-2s" + " %16.10f" * 3 + " %16.10f" * 3 + " %16.10f" * 3
    lines = [row % (symbols[int(z)], *values) for z, values in zip(numbers, columns.tolist(), strict=True)]
    if not frame["free"].all():  # ASE's column of atoms that are not fixed
        lines = [f"{line} {'T' if free else 'F'}" for line, free in zip(lines, frame["free"], strict=True)]
    return "\n".join([str(len(numbers)), " ".join(keys), *lines]) + "\n"


def _frames_of(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Step, and byte behind it, of each complete frame; step -1 where the frame does not say."""
    while line := file.readline():
        if not line.strip().isdigit():
            return
        comment = file.readline()
        lines = [comment, *(file.readline() for _ in range(int(line)))]
        if not lines[-1].endswith(b"\n"):
            return
        step = re.search(rb"(?:^|\s)step=(\d+)", comment)
        yield int(step[1]) if step else -1, file.tell()


def _cut(path: Path, parts: Callable[[BinaryIO], Iterator[tuple[int, int]]], last_step: int | None) -> None:
    """Remove what stands behind the last complete part whose step is at most ``last_step``."""
    with open(path, "r+b") as file:
        end = 0
        for step, behind in parts(file):
            if last_step is not None and step > last_step:
                break
            end = behind
        file.truncate(end)


_COLUMNS = {
    "potential_energy": "eV",
    "kinetic_energy": "eV",
    "total_energy": "eV",
    "conserved_energy": "eV",
    "temperature": "K",
    "pressure": "bar",
    "density": "g/cm3",
    "max_force": "eV/A",
}


class LogWriter(_Closing):
    """Writes LogRows as CSV, one line per system; to be given to ``simulate`` as ``on_log``.

    The header names units in brackets. Pressure and density are empty where they have no meaning.

    Args:
        path: the file.
        append: keep what is there.
        last_step: with ``append``, the step one resumes from; later lines are cut, those up to it not written again.
    """

    HEADER = ",".join(["step", "time[ps]", "system", *(f"{name}[{unit}]" for name, unit in _COLUMNS.items())])

    def __init__(self, path: str | os.PathLike[str], append: bool = False, last_step: int | None = None) -> None:
        self.path = Path(path)
        append = append and self.path.exists() and self.path.stat().st_size > 0
        self._written = last_step if append and last_step is not None else -1
        if append:
            _cut(self.path, _lines_of, last_step)
        self._file = open(self.path, "a" if append else "w", encoding="utf-8", newline="\n")  # noqa: SIM115
        if self._file.tell() == 0:
            self._write(self.HEADER)

    def __call__(self, row: LogRow) -> None:
        if row.step <= self._written:
            return
        columns = [getattr(row, name) for name in _COLUMNS]
        for system in range(len(row.temperature)):
            values = ("" if np.isnan(column[system]) else f"{column[system]:.10g}" for column in columns)
            self._write(",".join([str(row.step), f"{row.time:.10g}", str(system), *values]))

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _lines_of(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Step, and byte behind it, of each complete line; step -1 for the header."""
    while (line := file.readline()).endswith(b"\n"):
        step = line.split(b",", 1)[0]
        yield int(step) if step.isdigit() else -1, file.tell()
