"""Small random potentials, one per architecture and variant; every contract check runs on each."""

from dataclasses import replace

import torch

from mosso.engine.potential import Potential
from mosso.models.initial import initial_tensors
from mosso.models.mace import MACE, MACESpec
from mosso.precision import Precision
from mosso.weights.checkpoint import Checkpoint

BASE = MACESpec(
    species=(1, 6, 8),
    r_max=3.5,
    num_bessel=6,
    num_polynomial_cutoff=5,
    max_ell=2,
    hidden_irreps="4x0e+4x1o",
    correlation=(2, 2),
    interactions=("RealAgnostic", "RealAgnosticResidual"),
    radial_mlp=(8, 8),
    readout_mlp=4,
    heads=("Default",),
    avg_num_neighbors=(8.0, 8.0),
    distance_transform="none",
    pair_repulsion=False,
    scale_shift=True,
    activation_constant=1.6791767923989418,
)
DENSITY = ("RealAgnosticDensity", "RealAgnosticDensityResidual")
SPECS = {
    "mace-plain": BASE,
    "mace-residual-first": replace(BASE, interactions=("RealAgnosticResidual",) * 2),
    "mace-density-agnesi-zbl": replace(BASE, interactions=DENSITY, distance_transform="agnesi", pair_repulsion=True),
    "mace-zbl-unscaled": replace(BASE, pair_repulsion=True, scale_shift=False),
    "mace-scalars-correlation-3": replace(BASE, hidden_irreps="4x0e", correlation=(3, 3)),
    "mace-degree-3-three-layers": replace(
        BASE,
        max_ell=3,
        hidden_irreps="4x0e+4x1o+4x2e+4x3o",
        correlation=(2, 1, 3),
        interactions=("RealAgnostic", "RealAgnosticDensityResidual", "RealAgnosticResidual"),
        avg_num_neighbors=(8.0, 8.0, 8.0),
    ),
    "mace-two-heads": replace(BASE, heads=("first", "second")),
    "mace-envelope-on-weights": replace(BASE, apply_cutoff=False, interactions=DENSITY),
}
E0 = {1: -13.6, 6: -1030.0, 8: -2040.0}


def checkpoint(name: str, seed: int = 0) -> Checkpoint:
    spec = SPECS[name]
    tensors = initial_tensors(spec, seed)
    num_heads = len(spec.heads)
    tensors["atomic_energies_fn.atomic_energies"] = torch.tensor([[E0[z] for z in spec.species]] * num_heads, dtype=torch.float64)
    if spec.scale_shift:
        tensors["scale_shift.scale"] = torch.linspace(0.8, 1.2, num_heads, dtype=torch.float64)
        tensors["scale_shift.shift"] = torch.linspace(0.1, 0.3, num_heads, dtype=torch.float64)
    description = MACE(spec, tensors, Precision.named("fp64")).describe()
    provenance = {"source": name, "sha256": None, "licence": "MIT", "citation": "", "dtype": "float64"}
    return Checkpoint("mace", description, tensors, provenance)


def potential(name: str, precision: str = "fp64", seed: int = 0, device: str = "cpu") -> Potential:
    made = checkpoint(name, seed)
    return Potential(made, name=name, device=device, precision=precision, head=SPECS[name].heads[-1])
