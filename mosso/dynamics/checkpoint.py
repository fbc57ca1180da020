"""Checkpoints of a simulation: a plain .npz of arrays, written whole or not at all."""

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mosso.data.atomic import atomic_path
from mosso.data.structure import Batch
from mosso.dynamics.state import State

_FORMAT = "mosso-state-3"


def save_state(path: str | os.PathLike[str], state: State, settings: Mapping[str, Any] | None = None) -> None:
    """Writes the state, replacing a file of that name only when all is written.

    ``settings`` (JSON types) say what the state was made with, for ``require_settings`` of whoever goes on from it.
    """
    arrays: dict[str, Any] = {"format": np.asarray(_FORMAT), "batch.offsets": np.asarray(state.batch.offsets)}
    arrays["settings"] = np.asarray(json.dumps(dict(settings or {})))
    for owner, prefix in ((state.batch, "batch."), (state, "")):
        for f in fields(owner):
            value = getattr(owner, f.name)
            if isinstance(value, torch.Tensor):
                arrays[prefix + f.name] = value.detach().cpu().numpy()
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_state(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> State:
    """The state of ``save_state``, bit for bit, on ``device``. Nothing in the file is executed.

    Raises:
        ValueError: no such file, not a checkpoint, or one that is not complete.
    """
    arrays = _read(path)

    def fill(kind: type, prefix: str) -> dict[str, Any]:
        return {f.name: torch.from_numpy(arrays[prefix + f.name]).to(device) for f in fields(kind) if prefix + f.name in arrays}

    offsets = tuple(int(x) for x in arrays.pop("batch.offsets"))
    batch = Batch(**fill(Batch, "batch."), offsets=offsets)
    return State(**{"stress_B33": None, "batch": batch, **fill(State, "")})


def require_settings(path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """ValueError that names what differs when the checkpoint at ``path`` was made with other settings."""
    saved = json.loads(str(_read(path)["settings"]))
    changed = [f"{name} was {saved[name]}, now {settings[name]}" for name in settings if name in saved and saved[name] != settings[name]]
    if changed:
        raise ValueError(f"{path} belongs to another simulation ({'; '.join(changed)}): resume with the same settings, or start a new run.")


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    if not Path(path).exists():
        raise ValueError(f"No checkpoint at {path}: start the simulation without resuming.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a mosso checkpoint: {error}") from error
    if str(arrays.pop("format", "")) != _FORMAT:
        raise ValueError(f"{path} is not a mosso checkpoint of format {_FORMAT}: start again, or use the version that wrote it.")
    written = {"settings", *(f"batch.{f.name}" for f in fields(Batch)), *(f.name for f in fields(State))} - {"batch", "stress_B33"}
    if missing := sorted(written - arrays.keys()):
        raise ValueError(f"{path} is not complete, it lacks {', '.join(missing)}: put a whole copy back, or start a new run.")
    return arrays
