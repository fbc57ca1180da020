"""Ops on tensors. Models call these names; dispatch.py decides which implementation runs."""

from mosso.kernels.dispatch import edge_convolution, gaussian, neighbor_ops, symmetric_contraction
from mosso.kernels.reference import (
    SpeciesGroups,
    edge_features,
    fold_contraction,
    linear,
    radial_mlp,
    radial_moments,
    segment_sum,
    species_linear,
    tabulated_convolution,
)

__all__ = [
    "SpeciesGroups",
    "edge_convolution",
    "edge_features",
    "fold_contraction",
    "gaussian",
    "linear",
    "neighbor_ops",
    "radial_mlp",
    "radial_moments",
    "segment_sum",
    "species_linear",
    "symmetric_contraction",
    "tabulated_convolution",
]
