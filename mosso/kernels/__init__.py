"""Ops on tensors. Models call these names; which implementation runs is decided here."""

from mosso.kernels.reference import (
    SpeciesGroups,
    edge_convolution,
    fold_contraction,
    linear,
    radial_mlp,
    segment_sum,
    species_linear,
    symmetric_contraction,
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
