"""Make golden outputs of real, trained mace checkpoints (the checkpoints are not stored here).

    python make_checkpoint_goldens.py --checkpoints DIR --data solvent_xtb_test.xyz

Reads ``mace_<name>.model`` from DIR and writes ``goldens/<name>.npz`` and ``.json`` for each.
A pickled model runs code when it is read: use trusted files only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import mace_evaluate
import numpy as np
import torch
from ase.io import read
from golden_structures import Structure, pack
from mace.tools.scripts_utils import extract_config_mace_model
from make_mace_goldens import GOLDENS, NOTES, versions

NAMES = ("solvent_01", "solvent_01_swa")
FRAMES = (0, 29, 57, 101, 160)
BOX = np.array([[14.0, 0.0, 0.0], [2.0, 13.0, 0.0], [-1.5, 1.0, 8.0]])
BOX_GRID = (2, 2, 1)
ARCHITECTURE = (
    "r_max", "num_bessel", "num_polynomial_cutoff", "max_ell", "num_interactions", "num_elements",
    "hidden_irreps", "MLP_irreps", "avg_num_neighbors", "correlation", "radial_type", "radial_MLP",
    "distance_transform", "pair_repulsion", "atomic_inter_scale", "atomic_inter_shift", "heads",
)  # fmt: skip


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """A random proper rotation matrix."""
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return rotation * np.sign(np.linalg.det(rotation))


def smallest_gap(molecule: np.ndarray, placed: list[np.ndarray]) -> float:
    """Smallest distance to the molecules placed before and to images of the molecule itself."""
    images = (np.array(list(np.ndindex(3, 3, 3))) - 1) @ BOX
    moved = np.any(images != 0.0, axis=1)
    others = [(molecule[None] + images[moved, None]).reshape(-1, 3)]
    others += [(positions[None] + images[:, None]).reshape(-1, 3) for positions in placed]
    return float(np.linalg.norm(molecule[:, None] - np.concatenate(others)[None], axis=-1).min())


def solvent_box(frames: list[Any], rng: np.random.Generator) -> Structure:
    """The first molecule of four frames, each turned until it fits, in a triclinic box."""
    corners = (np.array(list(np.ndindex(*BOX_GRID))) + 0.5) / BOX_GRID
    numbers: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    for frame, corner in zip(frames, corners, strict=False):
        chosen = frame.arrays["molID"] == frame.arrays["molID"][0]
        centred = frame.positions[chosen] - frame.positions[chosen].mean(axis=0)
        trials = [centred @ random_rotation(rng).T + corner @ BOX for _ in range(300)]
        positions.append(max(trials, key=lambda trial: smallest_gap(trial, positions)))
        numbers.append(frame.numbers[chosen])
    return Structure("box", np.concatenate(numbers), np.concatenate(positions), BOX, (True,) * 3)


def solvent_structures(path: Path) -> list[Structure]:
    """Five clusters of the test set and one periodic box."""
    frames = [read(path, index=i) for i in FRAMES]
    clusters = [
        Structure(f"frame_{i}", f.numbers, f.positions, np.zeros((3, 3)), (False,) * 3) for i, f in zip(FRAMES, frames, strict=True)
    ]
    return [*clusters, solvent_box(frames, np.random.default_rng(0))]


def plain(value: Any) -> Any:
    """Turn a hyperparameter into something JSON can hold."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bool | int | float | list | type(None)):
        return value
    return str(value)


def describe(model: torch.nn.Module) -> dict[str, Any]:
    """Hyperparameters as mace itself reads them off the model."""
    config = extract_config_mace_model(model)
    return {
        "model_class": type(model).__name__,
        "interactions": [type(block).__name__ for block in model.interactions],
        "numbers": model.atomic_numbers.tolist(),
        "radial_activation_cst": float(model.interactions[0].conv_tp_weights.layer0.act.cst),
        "readout_activation_cst": float(model.readouts[-1].non_linearity.acts[0].cst),
        **{name: plain(config.get(name)) for name in ARCHITECTURE},
    }


def make(name: str, checkpoint: Path, structures: list[Structure], folder: Path) -> None:
    """Evaluate one checkpoint in float64 and write its golden files."""
    model = torch.load(checkpoint, map_location="cpu", weights_only=False).double()
    head = mace_evaluate.heads_of(model)[0]
    single = mace_evaluate.run_singly(model, structures, head)
    batched = mace_evaluate.run(model, structures, [head] * len(structures))
    arrays = pack(structures)
    arrays |= {key: single[key][None] for key in mace_evaluate.OUTPUTS}
    arrays |= {f"batch_{key}": batched[key][None] for key in mace_evaluate.OUTPUTS}
    arrays |= {key: single[key] for key in ("volume", "num_edges", "node_feats")}
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    description = {
        "case": name,
        "checkpoint": {
            "file": checkpoint.name,
            "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        },
        "versions": versions(),
        "architecture": describe(model),
        "structures": [s.name for s in structures],
        "notes": NOTES,
        "state_dict": [
            {"name": key, "shape": list(value.shape), "dtype": str(value.numpy().dtype)} for key, value in model.state_dict().items()
        ],
    }
    (folder / f"{name}.json").write_text(json.dumps(description, indent=1) + "\n")
    difference = np.abs(single["forces"] - batched["forces"]).max()
    print(f"{name}: max |F| {np.abs(single['forces']).max():.2f} eV/A, batch - single {difference:.1e}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder with mace_<name>.model")
    parser.add_argument("--data", type=Path, required=True, help="solvent clusters, extended XYZ")
    parser.add_argument("--folder", type=Path, default=GOLDENS, help="where to write (default: goldens/)")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    structures = solvent_structures(arguments.data)
    for name in NAMES:
        make(name, arguments.checkpoints / f"mace_{name}.model", structures, arguments.folder)


if __name__ == "__main__":
    main()
