"""Structures from files, through ASE; labels by name, errors in one sentence."""

import contextlib
import gzip
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.data import chemical_symbols
from ase.io.formats import UnknownFileTypeError, filetype, open_with_compression
from ase.stress import voigt_6_to_full_3x3_stress
from ase.utils import string2index

from mosso.data.pdb import UnknownElement, complete_elements, complete_models
from mosso.data.structure import Structure

LABELS = ("energy", "forces", "stress")
_LMDB = (".lmdb", ".aselmdb", ".mdb")


def read_structures(
    path: str | os.PathLike[str],
    index: str | int | slice = ":",
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
) -> list[Structure]:
    """The frames of a file in any format ASE reads (extxyz, xyz, cif, POSCAR, traj, ASE db, ...; .gz too).

    Labels come from the calculator results ASE attaches. A key, where given, is looked up instead in the per-frame
    values, the per-atom columns and the calculator results, by that name; every frame must have it, except that
    frames not periodic in three directions need no stress. Total charge and spin multiplicity come from the per-frame
    values ``charge`` or ``total_charge``, ``spin`` or ``multiplicity``. Atoms held
    by ASE's FixAtoms stay fixed; other constraints are not read. Elements that a PDB file leaves out follow from its residues;
    its cell is that of all its models, the unit cube none.

    Args:
        path: the file.
        index: frames in ASE's way: ``":"`` all, ``0`` the first, ``-1`` the last, ``"10:20"``, ``"::5"``.
        energy_key, forces_key, stress_key: names of labels in eV, eV/A, eV/A^3 (tension positive; 3x3, 9 numbers, or
            Voigt 6 in ASE's order xx, yy, zz, yz, xz, xy).

    Raises:
        FileNotFoundError: no such file.
        ValueError: no frames, unreadable content, elements that a PDB file does not tell, positions that are not finite, labels
            missing or of a wrong shape.
    """
    path = _check_file(Path(path))
    selected = _parse_index(index)
    keys = _Keys(energy_key, forces_key, stress_key)
    if "virial" in (stress_key or "").lower():
        raise ValueError(f"The stress key {stress_key!r} names a virial: store stress = -virial / volume (eV/A^3) and give that key.")
    structures = []
    for position, atoms in enumerate(_read_atoms(path, selected)):
        try:
            structures.append(_to_structure(atoms, keys))
        except ValueError as error:
            raise ValueError(f"{path}, {_frame_name(position, selected)}: {error}") from error
    return structures


def to_atoms(structure: Structure) -> Atoms:
    """The structure as ``ase.Atoms``, without a calculator; charge and spin are in ``info`` where they are not the default."""
    info = dict(structure.info)
    if structure.charge != 0.0 and "charge" not in info and "total_charge" not in info:
        info["charge"] = structure.charge
    if structure.spin != 1 and "spin" not in info and "multiplicity" not in info:
        info["spin"] = structure.spin
    held = None if structure.fixed is None else FixAtoms(mask=structure.fixed)
    return Atoms(
        numbers=structure.numbers, positions=structure.positions, cell=structure.cell, pbc=structure.pbc, info=info, constraint=held
    )


class _Keys(NamedTuple):
    """Names the user gave to labels, in the order of ``LABELS``; None: whatever ASE attached."""

    energy: str | None
    forces: str | None
    stress: str | None


def _check_file(path: Path) -> Path:
    if path.suffix.lower() in _LMDB:
        raise ValueError(f"{path}: LMDB data sets are not supported yet, convert it to extxyz or an ASE .db file.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}: check the path.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the path of one structure file in it.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty: give a file with at least one structure.")
    return path


def _parse_index(index: str | int | slice) -> int | slice:
    parsed = string2index(index) if isinstance(index, str) else index
    if isinstance(parsed, str):
        raise ValueError(f"The frame index {index!r} is not understood: give a number such as 0 or -1, or a range such as ':' or '10:20'.")
    return parsed


def _read_atoms(path: Path, index: int | slice) -> list[Atoms]:
    """The selected frames; whatever goes wrong in ASE becomes one sentence."""
    outside = f"{path} has no frame {index}: it has fewer."
    try:
        found = _read_database(path, index) if path.suffix.lower() == ".db" else _read_file(path, index)
    except UnknownFileTypeError as error:
        if _is_empty_archive(path):
            raise ValueError(f"{path} is empty: give a file with at least one structure.") from error
        raise ValueError(f"The format of {path} is not known: use extxyz, or name the file as its format is usually named.") from error
    except (StopIteration, IndexError) as error:
        if isinstance(index, int):
            raise ValueError(outside) from error
        raise _unreadable(path, error) from error
    except UnknownElement as error:
        raise ValueError(f"{path}, {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # ASE's readers raise anything on broken input: KeyError, AssertionError, OSError, ...
        raise _unreadable(path, error) from error
    atoms = [found] if isinstance(found, Atoms) else list(found)
    if not atoms:
        if index == slice(None):
            raise ValueError(f"{path} has no frames: give a file with at least one structure.")
        raise ValueError(f"{path} has no frames in the range {index}: choose another range.")
    return atoms


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = " ".join(f"{error}".split())[:200]
    details = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return ValueError(f"{path} cannot be read ({details}): check that the file is complete and that its name fits its format.")


def _is_empty_archive(path: Path) -> bool:
    if path.suffix.lower() != ".gz":
        return False
    with contextlib.suppress(OSError), gzip.open(path) as file:
        return not file.read(1)
    return False


def _read_file(path: Path, index: int | slice) -> Atoms | list[Atoms]:
    """Frames by ``ase.io.read``. What a PDB file leaves out is filled in before: ASE guesses elements from names of atoms, takes a cell
    for that of the next model alone, and makes one without atoms where END follows ENDMDL."""
    name = str(path)
    file_format = filetype(name)
    if file_format != "proteindatabank":
        return ase.io.read(name, index, format=file_format, do_not_split_by_at_sign=True)
    with open_with_compression(name) as file:
        completed = StringIO("".join(complete_models(complete_elements(file, chemical_symbols))))
    return ase.io.read(completed, index, format=file_format)


def _read_database(path: Path, index: int | slice) -> list[Atoms]:
    """Rows of an ASE database with their key-value pairs and data, which ``ase.io.read`` leaves behind."""
    from ase.db import connect

    with connect(path) as database:
        rows = list(database.select())
    frames = []
    for row in rows[index] if isinstance(index, slice) else [rows[index]]:
        atoms, pairs = row.toatoms(), dict(row.key_value_pairs)
        if pairs.pop("charge", None) is not None:  # ASE puts the sum of initial charges in its place
            warnings.warn(f"{path}: ASE hides values called 'charge' in its databases; store the charge as 'total_charge'.", stacklevel=2)
        atoms.info.update({**row.data, **pairs})
        frames.append(atoms)
    return frames


def _frame_name(position: int, index: int | slice) -> str:
    """Where a frame is in its file, as far as the selection tells."""
    if isinstance(index, int):
        return f"frame {index}"
    start, step = index.start or 0, index.step or 1
    return f"frame {start + position * step}" if start >= 0 and step > 0 else f"frame {position} of the selection"


def _to_structure(atoms: Atoms, keys: _Keys) -> Structure:
    results = dict(getattr(atoms.calc, "results", {}))
    labels = {}
    structure = Structure.of(atoms)  # first, so that positions that are not finite are named before labels
    for name, key in zip(LABELS, keys, strict=True):
        value = results.get(name) if key is None else _find(atoms, results, key)
        if value is not None:
            labels[name] = _checked_label(name, key or name, value, len(atoms))
        elif key is not None and not (name == "stress" and not atoms.pbc.all()):
            raise ValueError(f"there are no {name} labels called {key!r}; {_describe_names(atoms, results)}.")
    return replace(structure, labels=labels, fixed=_fixed_atoms(atoms))


def _fixed_atoms(atoms: Atoms) -> np.ndarray | None:
    mask = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            mask[constraint.index] = True
    return mask if mask.any() else None


def _find(atoms: Atoms, results: Mapping[str, Any], key: str) -> Any:
    """A label by the name it has in the file; ASE moves ``energy``, ``forces``, ``stress`` into the results."""
    for source in (atoms.info, atoms.arrays, results):
        if key in source:
            return source[key]
    return None


def _describe_names(atoms: Atoms, results: Mapping[str, Any]) -> str:
    names = sorted({*atoms.info, *results, *atoms.arrays} - {"numbers", "positions"})
    return f"the frame has {', '.join(map(str, names))}" if names else "the frame has no labels at all"


def _checked_label(name: str, key: str, value: Any, num_atoms: int) -> Any:
    """Energy as float, forces as (N, 3), stress as (3, 3)."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"the {name} label {key!r} is not a number but {value!r}.") from None
    shapes_of: dict[str, list[tuple[int, ...]]] = {"energy": [(), (1,)], "forces": [(num_atoms, 3)], "stress": [(3, 3), (6,), (9,)]}
    expected = shapes_of[name]
    if array.shape not in expected:
        shapes = " or ".join(map(str, expected[:1] if name == "energy" else expected))
        raise ValueError(f"the {name} label {key!r} has shape {array.shape}, expected {shapes}: check the file, or the key.")
    if not np.isfinite(array).all():
        raise ValueError(f"the {name} label {key!r} is not finite: remove the frame, or the label.")
    if name == "energy":
        return float(array.reshape(()))
    if name == "stress":
        return voigt_6_to_full_3x3_stress(array) if array.shape == (6,) else array.reshape(3, 3).copy()
    return array.copy()
