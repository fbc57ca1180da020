"""Ops on tensors. Models call these names; dispatch.py decides which implementation runs."""

from mosso.kernels.dispatch import edge_convolution, symmetric_contraction
from mosso.kernels.reference import (
    SpeciesGroups,
    fold_contraction,
    linear,
    radial_mlp,
    segment_sum,
    species_linear,
)

__all__ = [
    "SpeciesGroups",
    "edge_convolution",
    "fold_contraction",
    "linear",
    "radial_mlp",
    "segment_sum",
    "species_linear",
    "symmetric_contraction",
]
