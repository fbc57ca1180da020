"""Ops on tensors. Models call these names; dispatch.py decides which implementation runs."""

from mosso.kernels.dispatch import (
    edge_convolution,
    edge_features,
    radial_moments,
    symmetric_contraction,
    tabulated_convolution,
)
from mosso.kernels.reference import (
    SpeciesGroups,
    fold_contraction,
    path_linear,
    radial_mlp,
    segment_sum,
    species_linear,
)

__all__ = [
    "SpeciesGroups",
    "edge_convolution",
    "edge_features",
    "fold_contraction",
    "path_linear",
    "radial_mlp",
    "radial_moments",
    "segment_sum",
    "species_linear",
    "symmetric_contraction",
    "tabulated_convolution",
]
