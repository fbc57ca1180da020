"""Every op in plain torch: the executable specification that faster implementations are tested against.

N atoms, E edges, C channels, M irrep components, P paths, K radial functions, T polynomial terms, S species.
Features are (N, M, C): components of one channel by ascending degree, channels last.
"""

from mosso.kernels.reference.edges import (
    SHORTEST,
    Virials,
    Visits,
    edge_convolution,
    edge_features,
    edge_forces,
    edge_vectors,
    radial_mlp,
    radial_moments,
    tabulated_convolution,
    visiting_order,
)
from mosso.kernels.reference.nodes import (
    TILE_ATOMS,
    SpeciesGroups,
    fold_contraction,
    path_linear,
    readout,
    species_path_linear,
    symmetric_contraction,
)
from mosso.kernels.reference.repulsion import pair_repulsion
from mosso.kernels.reference.sums import (
    max_segments,
    segment_sum,
    stress,
    sum_segments,
)

__all__ = [
    "SHORTEST",
    "TILE_ATOMS",
    "SpeciesGroups",
    "Virials",
    "Visits",
    "edge_convolution",
    "edge_features",
    "edge_forces",
    "edge_vectors",
    "fold_contraction",
    "max_segments",
    "pair_repulsion",
    "path_linear",
    "radial_mlp",
    "radial_moments",
    "readout",
    "segment_sum",
    "species_path_linear",
    "stress",
    "sum_segments",
    "symmetric_contraction",
    "tabulated_convolution",
    "visiting_order",
]
