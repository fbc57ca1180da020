"""A MACE of a few channels with random weights and a repulsive core: small, fast, and of the full architecture."""

from dataclasses import asdict
from pathlib import Path

from mosso.engine.artifact import write_artifact
from mosso.models.initial import initial_tensors
from mosso.models.mace import MACESpec
from mosso.weights.checkpoint import Checkpoint

SPEC = MACESpec(
    species=(1, 6, 8, 29),
    r_max=3.5,
    num_bessel=6,
    num_polynomial_cutoff=5,
    max_ell=2,
    hidden_irreps="4x0e+4x1o",
    correlation=(2, 2),
    interactions=("RealAgnosticResidual", "RealAgnosticResidual"),
    radial_mlp=(8,),
    readout_mlp=4,
    heads=("Default",),
    avg_num_neighbors=(8.0, 8.0),
    distance_transform="none",
    pair_repulsion=True,
    scale_shift=True,
    activation_constant=1.6791767923989418,
)


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
