"""Ops over edges: geometry, radial networks and tables, convolutions, and the forces that follow."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mosso.kernels.reference.neighbor_list import displacements
from mosso.kernels.reference.sums import segment_sum
from mosso.math.coupling import CouplingPath
from mosso.math.harmonics import spherical_harmonics

# Which virials of atoms are wanted (see ``edge_forces``).
Virials = Literal["none", "shared", "received"]
# Edges below this have no direction (Angstrom).
SHORTEST = 1e-30


def radial_mlp(
    features_EK: Tensor,
    weights: Sequence[Tensor],
    activation_constant: float,
    product: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
) -> Tensor:
    """(E, out): layers x W / sqrt(fan-in), scaled silu between them, the last one linear; weights are stock (in, out)."""
    x = features_EK
    for depth, weight in enumerate(weights):
        if depth > 0:
            x = nn.functional.silu(x) * activation_constant
        x = product(x, weight / weight.shape[0] ** 0.5)
    return x


def edge_convolution(
    x_NMC: Tensor,
    harmonics_EM: Tensor,
    weights_EPC: Tensor,
    senders_E: Tensor,
    receivers_E: Tensor,
    receiver_offsets: Tensor,
    transpose_E: Tensor,
    sender_offsets: Tensor,
    degrees_in: tuple[int, ...],
    paths: Sequence[CouplingPath],
) -> Tensor:
    """(N, K, C): sum over edges of w_p * CG(x of the sender, Y of the edge), the 2 l_out + 1 rows of each path in turn.

    Batatia et al., MACE (2022), equation 8, before the linear mixing of paths.

    Edges come sorted by receiver: those into atom n are receiver_offsets[n]:receiver_offsets[n + 1], those out of it
    transpose_E[sender_offsets[n]:sender_offsets[n + 1]] (both (N + 1,) int64, for sums without atomics). Edges behind
    receiver_offsets[-1] are padding: they add nothing and get zero gradients.
    """
    num_nodes, num_edges = x_NMC.shape[0], senders_E.shape[0]
    max_ell = max(path.l_edge for path in paths)
    # Padding goes to a row of its own, which is dropped.
    real_E = torch.arange(num_edges, device=senders_E.device) < receiver_offsets[-1]
    rows_E = torch.where(real_E, receivers_E, num_nodes)
    # Taken apart once: a slice per path would make the backward pass add up as many zero-filled copies of the whole.
    x_by_degree = dict(zip(degrees_in, x_NMC.index_select(0, senders_E).split([2 * d + 1 for d in degrees_in], dim=1), strict=True))
    harmonics = harmonics_EM[:, : (max_ell + 1) ** 2].split([2 * d + 1 for d in range(max_ell + 1)], dim=1)
    sums = []
    for path, weight_EC in zip(paths, weights_EPC.unbind(1), strict=True):
        coupling_JKI = _coupling(path, x_NMC.dtype, x_NMC.device)
        coupled_EKI = (harmonics[path.l_edge] @ coupling_JKI.flatten(1)).unflatten(1, coupling_JKI.shape[1:])
        weighted_EIC = x_by_degree[path.l_in] * weight_EC.unsqueeze(1)
        sums.append(segment_sum(coupled_EKI @ weighted_EIC, rows_E, num_nodes + 1)[:num_nodes])
    return torch.cat(sums, dim=1)


def edge_vectors(
    positions_N3: Tensor,
    cell_B33: Tensor,
    system_N: Tensor,
    senders_E: Tensor,
    receivers_E: Tensor,
    shifts_E3: Tensor,
    receiver_offsets: Tensor,
    cutoff: float,
) -> Tensor:
    """(E, 3) float64: ``displacements``, and (cutoff, 0, 0) for the padding behind receiver_offsets[-1]."""
    vectors_E3 = displacements(positions_N3, cell_B33, system_N, senders_E, receivers_E, shifts_E3)
    real_E1 = (torch.arange(senders_E.shape[0], device=vectors_E3.device) < receiver_offsets[-1]).unsqueeze(1)
    padding_13 = nn.functional.pad(vectors_E3.new_full((1, 1), cutoff), (0, 2))
    return torch.where(real_E1, vectors_E3, padding_13)


def edge_features(vectors_E3: Tensor, max_ell: int, r_max: float, num_intervals: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """All that a tabulated convolution reads of the edges: (E, J) features in ``dtype`` and (E,) int32 rows of its table.

    Column 0 of the features is the position t in [0, 1) inside the interval ``row`` of ``num_intervals`` equal ones on
    [0, r_max); the other columns are the harmonics of degree 1 to ``max_ell``. The harmonic of degree 0 is one and is not stored.
    Edges of length ``r_max`` and more get row ``num_intervals`` and t = 0: tables have zeros there. An edge of no length has
    no direction; its harmonics are zero and its gradient is zero where the incoming one is.
    """
    distance_E = torch.linalg.vector_norm(vectors_E3, dim=1)
    scaled_E = distance_E * (num_intervals / r_max)
    inside_E = distance_E < r_max
    # The last interval ends at r_max whatever the product rounds to.
    rows_E = torch.where(inside_E, scaled_E.detach().floor().clamp(max=num_intervals - 1), num_intervals)
    position_E = torch.where(inside_E, scaled_E - rows_E, 0.0)
    harmonics_EM = spherical_harmonics(vectors_E3 / distance_E.clamp(min=SHORTEST).unsqueeze(1), max_ell)
    return torch.cat([position_E.unsqueeze(1), harmonics_EM[:, 1:]], dim=1).to(dtype), rows_E.to(torch.int32)


def _cubic(table_RQ: Tensor, rows_E: Tensor, position_E: Tensor, dim: int) -> Tensor:
    """(E, ...) the polynomials of the rows at their positions; coefficients in ascending order along ``dim`` of the table."""
    value: Tensor | None = None
    position = position_E.view(-1, *[1] * (table_RQ.ndim - 2))
    for coefficient in reversed(table_RQ.index_select(0, rows_E).to(position_E.dtype).unbind(dim)):
        value = coefficient if value is None else value * position + coefficient
    assert value is not None
    return value


class Visits(NamedTuple):
    """The order in which the edges of every receiver are visited, one receiver after the other.

    Attributes:
        order_E: (E,) int32, numbers of the edges.
        senders_E, rows_E: (E,) int64 and int32, their senders and rows of a table, in the same order.
    """

    order_E: Tensor
    senders_E: Tensor
    rows_E: Tensor


def visiting_order(rows_E: Tensor, senders_E: Tensor, receiver_offsets: Tensor) -> Visits:
    """The edges of each receiver by row of the table, then by number; what stands for padding edges means nothing.

    Programs that run side by side then go through the table together, and find in a near cache what another one has read.
    """
    places_E = torch.arange(rows_E.shape[0], device=rows_E.device)
    receivers_E = torch.searchsorted(receiver_offsets, places_E, right=True)
    order_E = torch.argsort(receivers_E * 2**32 + rows_E, stable=True)
    return Visits(order_E.to(torch.int32), senders_E[order_E], rows_E[order_E])


def tabulated_convolution(
    x_NMC: Tensor,
    features_EJ: Tensor,
    rows_E: Tensor,
    table_RPCQ: Tensor,
    senders_E: Tensor,
    receivers_E: Tensor,
    receiver_offsets: Tensor,
    transpose_E: Tensor,
    sender_offsets: Tensor,
    degrees_in: tuple[int, ...],
    paths: Sequence[CouplingPath],
    visits: Visits | None = None,
    coarse_RPCQ: Tensor | None = None,
) -> Tensor:
    """(N, K, C): ``edge_convolution`` whose radial weights are piecewise polynomials of the distance.

    w[e, p, c] = sum over q of table[rows[e], p, c, q] t^q with t = features[e, 0]; the other features are the harmonics of
    degree 1 and higher (see ``edge_features``). The table is a constant of the model: it gets no gradient. ``visits``
    (see ``visiting_order``) change the speed of other implementations and the order of their sums.

    ``coarse_RPCQ`` is a table of the same functions where one row stands for ratio = R / R' of the other, and its t is
    (rows[e] % ratio + t) / ratio. The output is then made with it, and the gradients still with ``table_RPCQ``: a function needs
    fewer intervals than its derivative, and rows that more edges share are read from nearer caches.
    """
    harmonics_EM = torch.cat([torch.ones_like(features_EJ[:, :1]), features_EJ[:, 1:]], dim=1)
    edges = (senders_E, receivers_E, receiver_offsets, transpose_E, sender_offsets)

    def convolve(weights_EPC: Tensor) -> Tensor:
        return edge_convolution(x_NMC, harmonics_EM, weights_EPC, *edges, degrees_in, paths)

    position_E = features_EJ[:, 0]
    found_NKC = convolve(_cubic(table_RPCQ, rows_E, position_E, 3))
    if coarse_RPCQ is None:
        return found_NKC
    ratio = table_RPCQ.shape[0] // coarse_RPCQ.shape[0]
    with torch.no_grad():
        value_NKC = convolve(_cubic(coarse_RPCQ, rows_E // ratio, (rows_E % ratio + position_E) / ratio, 3))
    return value_NKC + (found_NKC - found_NKC.detach())


def radial_moments(
    features_EJ: Tensor,
    rows_E: Tensor,
    table_RQK: Tensor,
    species_N: Tensor,
    num_species: int,
    senders_E: Tensor,
    receivers_E: Tensor,
    receiver_offsets: Tensor,
) -> Tensor:
    """(N, J, Z, K): sum over the edges into n whose sender has species z of phi_k Y_j, phi_k piecewise polynomials of the distance.

    phi_k(e) = sum over q of table[rows[e], q, k] t^q with t = features[e, 0]; Y_0 = 1, the other Y_j are the other features (see
    ``edge_features``). ``species_N`` (N,) int64 counts from 0 to ``num_species`` - 1. What a first layer of message passing needs:
    node features that depend on the species alone come out of the sum.
    """
    num_nodes, num_edges = species_N.shape[0], senders_E.shape[0]
    real_E = torch.arange(num_edges, device=senders_E.device) < receiver_offsets[-1]
    slots_E = torch.where(real_E, receivers_E * num_species + species_N[senders_E], num_nodes * num_species)
    phi_EK = _cubic(table_RQK, rows_E, features_EJ[:, 0], 1)
    harmonics_EJ = torch.cat([torch.ones_like(features_EJ[:, :1]), features_EJ[:, 1:]], dim=1)
    sums = segment_sum(harmonics_EJ.unsqueeze(2) * phi_EK.unsqueeze(1), slots_E, num_nodes * num_species + 1)[:-1]
    return sums.unflatten(0, (num_nodes, num_species)).transpose(1, 2)


def edge_forces(
    gradient_E3: Tensor, vectors_E3: Tensor, receiver_offsets: Tensor, transpose_E: Tensor, sender_offsets: Tensor, virials: Virials
) -> tuple[Tensor, Tensor | None]:
    """(N, 3) forces and (N, 3, 3) virials of atoms, from the derivative g = dE/dr of the energy by every edge vector.

    The force on an atom is the sum of g over its outgoing edges minus the sum over its incoming ones; its virial, its part of
    -dE/d(strain), is the sum of -r g^T / 2 over both (``virials`` is ``shared``), or of -r g^T over the incoming ones (``received``),
    which is less to read where only their sum over a system matters; None for ``none``. Edges and their offsets as in
    ``edge_convolution``; padding adds nothing.
    """
    num_nodes = receiver_offsets.shape[0] - 1
    edges = torch.arange(gradient_E3.shape[0], device=gradient_E3.device)
    # Padding is behind the last offset and so goes to a row of its own, which is dropped.
    receivers_E, senders_E = (torch.searchsorted(offsets, edges, right=True) - 1 for offsets in (receiver_offsets, sender_offsets))

    def sums(values_E: Tensor) -> tuple[Tensor, Tensor]:
        outgoing = segment_sum(values_E.index_select(0, transpose_E), senders_E, num_nodes + 1)
        return outgoing[:num_nodes], segment_sum(values_E, receivers_E, num_nodes + 1)[:num_nodes]

    outgoing_N3, incoming_N3 = sums(gradient_E3)
    if virials == "none":
        return outgoing_N3 - incoming_N3, None
    outgoing_N33, incoming_N33 = sums(-vectors_E3.unsqueeze(2) * gradient_E3.unsqueeze(1))
    virials_N33 = incoming_N33 if virials == "received" else 0.5 * (outgoing_N33 + incoming_N33)
    return outgoing_N3 - incoming_N3, virials_N33


@lru_cache(maxsize=1024)
def _coupling(path: CouplingPath, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2 l_edge + 1, 2 l_out + 1, 2 l_in + 1) coupling of a path as a tensor, uploaded once."""
    return torch.as_tensor(np.ascontiguousarray(path.coupling.transpose(1, 2, 0)), dtype=dtype, device=device)
