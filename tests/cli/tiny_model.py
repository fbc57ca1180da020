"""A MACE of a few channels with random weights and a repulsive core: small, fast, and of the full architecture."""

from dataclasses import asdict, replace
from pathlib import Path

from models.zoo import BASE

from mosso.engine.artifact import write_artifact
from mosso.models.initial import initial_tensors
from mosso.weights.checkpoint import Checkpoint

SPEC = replace(BASE, species=(1, 6, 8, 29), interactions=("RealAgnosticResidual",) * 2, radial_mlp=(8,), pair_repulsion=True)


def tiny_checkpoint() -> Checkpoint:
    """The model, apart from any file."""
    tensors = initial_tensors(SPEC, seed=7)
    tensors["scale_shift.scale"] *= 4.0
    tensors["atomic_energies_fn.atomic_energies"] -= 5.0
    provenance = {"source": "random weights", "sha256": None, "dtype": "float64", "licence": "none", "citation": "none"}
    spec = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(SPEC).items()}
    return Checkpoint("mace", spec, tensors, provenance)


def write_tiny_model(path: Path) -> Path:
    """The model as a file."""
    write_artifact(path, tiny_checkpoint())
    return path
