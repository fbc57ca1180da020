"""Ops on tensors. Models call these names; dispatch.py decides which implementation runs."""

from mosso.kernels.dispatch import (
    edge_convolution,
    edge_features,
    edge_forces,
    edge_vectors,
    gaussian,
    max_segments,
    neighbor_ops,
    path_linear,
    preferred,
    radial_moments,
    species_path_linear,
    sum_segments,
    symmetric_contraction,
    tabulated_convolution,
    visiting_order,
)
from mosso.kernels.reference import (
    SpeciesGroups,
    Visits,
    fold_contraction,
    radial_mlp,
    segment_sum,
)

__all__ = [
    "SpeciesGroups",
    "Visits",
    "edge_convolution",
    "edge_features",
    "edge_forces",
    "edge_vectors",
    "fold_contraction",
    "gaussian",
    "max_segments",
    "neighbor_ops",
    "path_linear",
    "preferred",
    "radial_mlp",
    "radial_moments",
    "segment_sum",
    "species_path_linear",
    "sum_segments",
    "symmetric_contraction",
    "tabulated_convolution",
    "visiting_order",
]
