"""Golden cases as mosso sees them: specification, stock tensors, structures and expected values."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from seeded_weights import fill

from mosso.data.structure import Structure
from mosso.models.mace import MACESpec
from mosso.weights.checkpoint import Checkpoint

GOLDENS = Path(__file__).parent / "goldens"


@dataclass(frozen=True)
class Golden:
    """One case: what mace-torch computed in float64 for each structure, evaluated one at a time."""

    name: str
    spec: MACESpec
    tensors: dict[str, torch.Tensor]
    structures: list[Structure]
    arrays: dict[str, np.ndarray]

    @property
    def checkpoint(self) -> Checkpoint:
        spec = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self.spec).items()}
        provenance = {"source": self.name, "sha256": None, "licence": "MIT", "citation": "", "dtype": "float64"}
        return Checkpoint("mace", spec, self.tensors, provenance)


def case_names() -> list[str]:
    """Cases whose architecture is described; real checkpoints have none."""
    return sorted(p.stem for p in GOLDENS.glob("*.json") if "interaction_first" in json.loads(p.read_text()).get("architecture", {}))


def load(name: str) -> Golden:
    described = json.loads((GOLDENS / f"{name}.json").read_text())
    with np.load(GOLDENS / f"{name}.npz") as file:
        arrays = dict(file)
    return Golden(name, _spec(described["architecture"]), _tensors(described, arrays), structures_of(arrays), arrays)


def structures_of(arrays: dict[str, np.ndarray]) -> list[Structure]:
    ends = np.cumsum(arrays["num_atoms"])
    return [
        Structure(arrays["numbers"][end - n : end], arrays["positions"][end - n : end], cell, pbc)
        for n, end, cell, pbc in zip(arrays["num_atoms"], ends, arrays["cells"], arrays["pbc"], strict=True)
    ]


def _spec(a: dict[str, Any]) -> MACESpec:
    kinds = [a["interaction_first"]] + [a["interaction"]] * (a["num_interactions"] - 1)
    return MACESpec(
        species=tuple(sorted(a["numbers"])),
        r_max=a["r_max"],
        num_bessel=a["num_bessel"],
        num_polynomial_cutoff=a["num_polynomial_cutoff"],
        max_ell=a["max_ell"],
        hidden_irreps=a["hidden_irreps"].replace(" ", ""),
        correlation=(a["correlation"],) * a["num_interactions"],
        interactions=tuple(kind.removesuffix("InteractionBlock") for kind in kinds),
        radial_mlp=tuple(a["radial_MLP"]),
        readout_mlp=int(a["MLP_irreps"].split("x")[0]),
        heads=tuple(a["heads"]),
        avg_num_neighbors=(a["avg_num_neighbors"],) * a["num_interactions"],
        distance_transform=a["distance_transform"].lower(),
        pair_repulsion=a["pair_repulsion"],
        scale_shift=a["model_class"] == "ScaleShiftMACE",
        activation_constant=a["radial_activation_cst"],
    )


def _tensors(described: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    tensors = {}
    with np.load(GOLDENS / "u_matrices.npz") as u_matrices:
        for entry in described["state_dict"]:
            name, shape = entry["name"], tuple(entry["shape"])
            match entry["source"]:
                case "seeded":
                    value = fill(name, shape, described["seed"], described["message_gain"])
                case "u_matrices":
                    value = _u_matrix(u_matrices, name, shape, described["architecture"]["max_ell"])
                case "stored":
                    value = arrays[f"state/{name}"]
                case _:
                    continue
            tensors[name] = torch.tensor(value)
    return tensors


def _u_matrix(store: Any, name: str, shape: tuple[int, ...], max_ell: int) -> np.ndarray:
    order = int(name[-1])
    degree = (shape[0] - 1) // 2 if len(shape) == order + 2 else 0
    key = f"L{degree}_ell{max_ell}_nu{order}"
    value = np.zeros(store[f"{key}/shape"])
    value.flat[store[f"{key}/index"]] = store[f"{key}/value"]
    return value.reshape(shape)
