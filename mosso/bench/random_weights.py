"""The weights that are measured: those of a file, or random ones of a shape of the benchmark."""

from dataclasses import replace
from pathlib import Path

from mosso.bench.cases import MODELS
from mosso.models.initial import initial_tensors
from mosso.models.mace import MACE
from mosso.precision import Precision
from mosso.weights.checkpoint import Checkpoint
from mosso.weights.mace import read_mace

# Factors on unit-normal weights that bring the forces of these systems to 0.1 to 1 eV/A; with less they drown in rounding.
GAINS = {"node_embedding.linear.weight": 4.0, "interactions.*.linear.weight": 27.0}


def checkpoint_of(model: str, weights: Path | None) -> Checkpoint:
    """The weights both sides use, or where there is no peer random ones of our own."""
    if weights is not None:
        return read_mace(weights)
    spec = MODELS[model]
    tensors = initial_tensors(spec)
    description = MACE(spec, tensors, Precision.named("fp64")).describe()
    provenance = {"source": "random weights", "sha256": None, "licence": "none", "citation": "", "dtype": "float64"}
    return with_gains(Checkpoint("mace", description, tensors, provenance))


def with_gains(checkpoint: Checkpoint) -> Checkpoint:
    """Unit-normal weights times GAINS."""

    def gain(name: str) -> float:
        parts = name.split(".")
        pattern = ".".join("*" if part.isdigit() else part for part in parts)
        return GAINS.get(pattern, 1.0)

    return replace(
        checkpoint, tensors={name: gain(name) * tensor if gain(name) != 1.0 else tensor for name, tensor in checkpoint.tensors.items()}
    )
