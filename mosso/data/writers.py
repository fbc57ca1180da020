"""Structures and results to files that ASE reads back, whole or not at all."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io.trajectory import Trajectory
from ase.stress import full_3x3_to_voigt_6_stress

from mosso.data.atomic import atomic_path
from mosso.data.readers import to_atoms
from mosso.data.structure import Structure

Frame = Structure | tuple[Structure, Mapping[str, Any]]

# by the end of the file name; plain .xyz is written with the extended comment line, which every xyz reader accepts
FORMATS = {".extxyz": "extxyz", ".xyz": "extxyz", ".extxyz.gz": "extxyz", ".xyz.gz": "extxyz", ".traj": "traj"}


def write_frames(path: str | os.PathLike[str], frames: Iterable[Frame]) -> None:
    """Frames to a file; an existing one is replaced at the end, and stays as it was when anything fails.

    A frame is a structure and its results: ``energy`` (eV), ``forces`` (N, 3) (eV/A), ``stress`` (3, 3) or Voigt (6,)
    (eV/A^3, tension positive), ``node_energies`` (N,) (eV), each optional; numbers, arrays or tensors. A structure
    alone is written with its own labels. ASE reads the values back with ``get_potential_energy`` and so on,
    ``node_energies`` with ``get_potential_energies``. What the structure carries in ``info`` is kept, except values
    under the names of ASE's results: those described another calculation. extxyz keeps eight decimals.

    Raises:
        ValueError: unknown ending, no frames, results of unknown name or wrong shape.
        FileNotFoundError: the folder does not exist.
    """
    file_format = format_of(path)
    images = []
    for index, frame in enumerate(frames):
        structure, results = (frame, frame.labels) if isinstance(frame, Structure) else frame
        try:
            images.append(_to_image(structure, results))
        except ValueError as error:
            raise ValueError(f"Frame {index}: {error}") from error
    if not images:
        raise ValueError(f"There are no frames to write to {path}.")
    with atomic_path(path) as temporary:
        ase.io.write(temporary, images, format=file_format)


def format_of(path: str | os.PathLike[str]) -> str:
    """ASE's name of the format a file of this name is written in; a ValueError names the endings there are."""
    name = Path(path).name.lower()
    for ending, file_format in FORMATS.items():
        if name.endswith(ending) and name != ending:
            return file_format
    raise ValueError(f"Cannot tell the format of {path} from its name: use one ending in {', '.join(FORMATS)}.")


def _to_image(structure: Structure, results: Mapping[str, Any]) -> Atoms:
    atoms = to_atoms(structure)
    atoms.info = {str(key): value for key, value in atoms.info.items() if key not in all_properties and _is_plain(value)}
    properties = dict(_property(name, value, len(structure)) for name, value in results.items() if value is not None)
    if properties:
        atoms.calc = SinglePointCalculator(atoms, **properties)
    return atoms


def _property(name: str, value: Any, num_atoms: int) -> tuple[str, Any]:
    """A result under ASE's name and in ASE's shape."""
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=np.float64)
    shapes: dict[str, list[tuple[int, ...]]] = {
        "energy": [(), (1,)],
        "forces": [(num_atoms, 3)],
        "stress": [(3, 3), (6,)],
        "node_energies": [(num_atoms,)],
    }
    if name not in shapes:
        raise ValueError(f"there is no result called {name!r}; results are {', '.join(shapes)}.")
    if array.shape not in shapes[name]:
        raise ValueError(f"the {name} have shape {array.shape}, expected {' or '.join(map(str, shapes[name]))}.")
    if name == "energy":
        return "energy", float(array.reshape(()))
    if name == "stress":
        return "stress", array if array.shape == (6,) else full_3x3_to_voigt_6_stress(array)
    return ("energies" if name == "node_energies" else name), array


def _is_plain(value: Any) -> bool:
    """Whether a file format can hold the value; anything else in ``info`` lives only in memory."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "biufUS"
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(item) for key, item in value.items())
    return isinstance(value, (str, bool, int, float, np.generic))


class AseTrajectory:
    """ASE's .traj, written frame by frame; the format keeps a table of frames that is complete after every write.

    Args:
        path: the file.
        append: keep what is there.
        last_step: with ``append``, drop frames whose info says a later ``step``.
    """

    def __init__(self, path: Path, append: bool, last_step: int | None) -> None:
        if append and last_step is not None:
            with atomic_path(path) as temporary, Trajectory(str(temporary), "w") as kept, Trajectory(str(path), "r") as written:
                for atoms in written:
                    if atoms.info.get("step", 0) <= last_step:
                        kept.write(atoms)
        self._file = Trajectory(str(path), "a" if append else "w")

    def write(self, frame: dict[str, Any]) -> None:
        """Append one frame: host arrays by the names of ase.Atoms, ``free`` (N,) bool, ``energy``, ``forces``, ``stress`` (3, 3) where
        there."""
        kinds = ("numbers", "positions", "cell", "pbc", "momenta", "masses", "info")
        held = None if frame["free"].all() else FixAtoms(mask=~frame["free"])
        atoms = Atoms(**{name: frame[name] for name in kinds}, constraint=held)
        results = {"energy": float(frame["energy"]), "forces": frame["forces"]}
        if "stress" in frame and frame["pbc"].all():
            results["stress"] = full_3x3_to_voigt_6_stress(frame["stress"])
        atoms.calc = SinglePointCalculator(atoms, **results)
        self._file.write(atoms)

    def close(self) -> None:
        self._file.close()
