"""Every op in plain torch: the executable specification that faster implementations are tested against.

N atoms, E edges, C channels, M irrep components, P paths, K radial functions, T polynomial terms, S species.
Features are (N, M, C): components of one channel by ascending degree, channels last.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mosso.kernels.reference_neighbor_list import displacements
from mosso.math.coupling import ContractionTable, CouplingPath
from mosso.math.harmonics import spherical_harmonics
from mosso.precision import MATMULS

# Edges below this have no direction (Angstrom).
SHORTEST = 1e-30


def segment_sum(values: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """(num_rows, ...) sums of the values that share an index; rows nothing maps to are zero."""
    return values.new_zeros((num_rows, *values.shape[1:])).index_add(0, index, values)


def sum_segments(values: Tensor, counts_B: Tensor) -> Tensor:
    """(B, ...) sums of consecutive rows, counts_B[b] (int64) of them for each b.

    The order of additions depends on the segment alone: no atomics, the same bits in any batch.
    """
    return torch.segment_reduce(values, "sum", lengths=counts_B, axis=0, unsafe=True, initial=0)


def max_segments(values: Tensor, counts_B: Tensor) -> Tensor:
    """(B, ...) largest of consecutive rows of non-negative numbers, zero for none; NaN stays NaN."""
    return torch.segment_reduce(values, "max", lengths=counts_B, axis=0, unsafe=True, initial=0)


# Atoms of one tile of SpeciesGroups.tiles_T3: few enough that a small system fills the device, many enough to use a matrix well.
TILE_ATOMS = 64


class SpeciesGroups(NamedTuple):
    """Atoms brought together by species, so that per-species weights become one batched product.

    Attributes:
        species_N: species of every atom.
        order_N: atoms sorted by species.
        group_N: position of every atom's species in ``present``.
        present: species that occur, ascending.
        present_S: the same as a tensor.
        rows_SA: atom indices of each, padded with atom 0 to the size of the largest group.
        slot_N: where atom n stands in the flattened (S, A) layout.
        tiles_T3: (T, 3) int32, ``order_N`` cut into pieces of one species and at most TILE_ATOMS atoms: species, first, count.
    """

    species_N: Tensor
    order_N: Tensor
    group_N: Tensor
    present: tuple[int, ...]
    present_S: Tensor
    rows_SA: Tensor
    slot_N: Tensor
    tiles_T3: Tensor

    @staticmethod
    def of(species_N: Tensor) -> "SpeciesGroups":
        order_N = torch.argsort(species_N, stable=True)
        present_S, group_N, counts_S = torch.unique_consecutive(species_N[order_N], return_inverse=True, return_counts=True)
        size = int(counts_S.max()) if len(counts_S) else 0
        within_N = torch.arange(len(order_N), device=order_N.device) - (counts_S.cumsum(0) - counts_S)[group_N]
        rows_SA = order_N.new_zeros(len(present_S), size)
        rows_SA[group_N, within_N] = order_N
        back_N = torch.empty_like(order_N).index_copy_(0, order_N, torch.arange(len(order_N), device=order_N.device))
        slot_N = (group_N * size + within_N)[back_N]
        return SpeciesGroups(
            species_N, order_N, group_N[back_N], tuple(present_S.tolist()), present_S, rows_SA, slot_N, _species_tiles(present_S, counts_S)
        )

    def gather(self, x_N: Tensor) -> Tensor:
        """(S, A, ...) rows of every species side by side."""
        return x_N.index_select(0, self.rows_SA.flatten()).view(*self.rows_SA.shape, *x_N.shape[1:])

    def scatter(self, x_SA: Tensor) -> Tensor:
        """(N, ...) back in the order of atoms; what the padding computed is dropped."""
        return x_SA.flatten(0, 1).index_select(0, self.slot_N)


def _species_tiles(present_S: Tensor, counts_S: Tensor) -> Tensor:
    """(T, 3) int32 species, first and count of the tiles of groups that stand one after the other."""
    tiles_S = (counts_S + TILE_ATOMS - 1) // TILE_ATOMS
    group_T = torch.repeat_interleave(tiles_S)
    before_T = TILE_ATOMS * (torch.arange(len(group_T), device=group_T.device) - (tiles_S.cumsum(0) - tiles_S)[group_T])
    first_T = (counts_S.cumsum(0) - counts_S)[group_T] + before_T
    count_T = (counts_S[group_T] - before_T).clamp(max=TILE_ATOMS)
    return torch.stack([present_S[group_T], first_T, count_T], dim=1).to(torch.int32)


def path_linear(
    x_NKC: Tensor,
    weights: Sequence[Tensor],
    degrees: tuple[int, ...],
    starts: tuple[tuple[int, ...], ...],
    matmul: str = "ieee",
    bias_SD: Tensor | None = None,
    species_N: Tensor | None = None,
) -> Tensor:
    """(N, M, D): ``linear`` whose degrees may each have several blocks of input rows, as the paths of a convolution leave them.

    out[n, m of degrees[i], d] = sum over blocks b and channels c of x[n, starts[i][b] + m, c] * weights[i][b * C + c, d].

    Args:
        x_NKC: (N, K, C); rows that no block reads get a zero gradient.
        weights: per degree (blocks * C, D), already normalised.
        degrees: of the output, in the order of its rows.
        starts: per degree the first row of each of its blocks of 2 l + 1 rows.
        matmul: one of ``precision.MATMULS``: what the products may be rounded to. The reference never makes use of it.
        bias_SD: (S, D) by species, added to the row of degree 0.
        species_N: (N,) int64 species of every atom; wanted where there is a bias.
    """
    assert matmul in MATMULS, f"{matmul!r} is none of {MATMULS}"
    mixed = [part @ weight for part, weight in zip(_blocks(x_NKC, degrees, starts), weights, strict=True)]
    return torch.cat(_biased(mixed, degrees, bias_SD, species_N), dim=1)


def species_path_linear(
    x_NKC: Tensor,
    weights: Sequence[Tensor],
    degrees: tuple[int, ...],
    starts: tuple[tuple[int, ...], ...],
    groups: SpeciesGroups,
    matmul: str = "ieee",
    bias_SD: Tensor | None = None,
) -> Tensor:
    """(N, M, D): ``path_linear`` with weights of each atom's species; weights[i] is (S, blocks * C, D)."""
    assert matmul in MATMULS, f"{matmul!r} is none of {MATMULS}"
    mixed = []
    for part_NMC, weight in zip(_blocks(x_NKC, degrees, starts), weights, strict=True):
        part_SAMC = groups.gather(part_NMC)
        mixed_SBD = part_SAMC.flatten(1, 2) @ weight.index_select(0, groups.present_S)
        mixed.append(groups.scatter(mixed_SBD.view(*part_SAMC.shape[:3], weight.shape[2])))
    return torch.cat(_biased(mixed, degrees, bias_SD, groups.species_N), dim=1)


def _biased(mixed: list[Tensor], degrees: tuple[int, ...], bias_SD: Tensor | None, species_N: Tensor | None) -> list[Tensor]:
    """The parts of each degree, with the bias of the species in that of degree 0."""
    if bias_SD is None:
        return mixed
    assert species_N is not None, "a bias goes by the species of atoms"
    bias_N1D = bias_SD.index_select(0, species_N).unsqueeze(1)
    return [part + bias_N1D if degree == 0 else part for degree, part in zip(degrees, mixed, strict=True)]


def _blocks(x_NKC: Tensor, degrees: tuple[int, ...], starts: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """Per degree (N, 2 l + 1, blocks * C): the rows of its blocks side by side."""
    shapes = [(2 * degree + 1, len(firsts)) for degree, firsts in zip(degrees, starts, strict=True)]
    # One gather: a slice per block would make the backward pass add up as many zero-filled copies of the whole.
    gathered = x_NKC.index_select(1, _block_rows(degrees, starts, x_NKC.device))
    parts = gathered.split([width * blocks for width, blocks in shapes], dim=1)
    return [part.unflatten(1, shape).flatten(2) for part, shape in zip(parts, shapes, strict=True)]


@lru_cache(maxsize=256)
def _block_rows(degrees: tuple[int, ...], starts: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """Rows of x in the order of degree, component, block; uploaded once."""
    rows = [first + m for degree, firsts in zip(degrees, starts, strict=True) for m in range(2 * degree + 1) for first in firsts]
    return torch.tensor(rows, dtype=torch.int64, device=device)


def radial_mlp(features_EK: Tensor, weights: Sequence[Tensor], activation_constant: float) -> Tensor:
    """(E, out): layers x W / sqrt(fan-in), scaled silu between them, the last one linear; weights are stock (in, out)."""
    x = features_EK
    for depth, weight in enumerate(weights):
        if depth > 0:
            x = nn.functional.silu(x) * activation_constant
        x = x @ (weight / weight.shape[0] ** 0.5)
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
    table_RPQC: Tensor,
    senders_E: Tensor,
    receivers_E: Tensor,
    receiver_offsets: Tensor,
    transpose_E: Tensor,
    sender_offsets: Tensor,
    degrees_in: tuple[int, ...],
    paths: Sequence[CouplingPath],
    visits: Visits | None = None,
) -> Tensor:
    """(N, K, C): ``edge_convolution`` whose radial weights are piecewise polynomials of the distance.

    w[e, p, c] = sum over q of table[rows[e], p, q, c] t^q with t = features[e, 0]; the other features are the harmonics of
    degree 1 and higher (see ``edge_features``). The table is a constant of the model: it gets no gradient. ``visits``
    (see ``visiting_order``) change the speed of other implementations and the order of their sums.
    """
    weights_EPC = _cubic(table_RPQC, rows_E, features_EJ[:, 0], 2)
    harmonics_EM = torch.cat([torch.ones_like(features_EJ[:, :1]), features_EJ[:, 1:]], dim=1)
    edges = (senders_E, receivers_E, receiver_offsets, transpose_E, sender_offsets)
    return edge_convolution(x_NMC, harmonics_EM, weights_EPC, *edges, degrees_in, paths)


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
    gradient_E3: Tensor, vectors_E3: Tensor, receiver_offsets: Tensor, transpose_E: Tensor, sender_offsets: Tensor, need_virial: bool
) -> tuple[Tensor, Tensor | None]:
    """(N, 3) forces and, if needed, (N, 3, 3) virials of atoms, from the derivative g = dE/dr of the energy by every edge vector.

    The force on an atom is the sum of g over its outgoing edges minus the sum over its incoming ones; its virial, its part of
    -dE/d(strain), is the sum of -r g^T / 2 over both. Edges and their offsets as in ``edge_convolution``; padding adds nothing.
    """
    num_nodes = receiver_offsets.shape[0] - 1
    edges = torch.arange(gradient_E3.shape[0], device=gradient_E3.device)
    # Padding is behind the last offset and so goes to a row of its own, which is dropped.
    receivers_E, senders_E = (torch.searchsorted(offsets, edges, right=True) - 1 for offsets in (receiver_offsets, sender_offsets))

    def sums(values_E: Tensor) -> tuple[Tensor, Tensor]:
        outgoing = segment_sum(values_E.index_select(0, transpose_E), senders_E, num_nodes + 1)
        return outgoing[:num_nodes], segment_sum(values_E, receivers_E, num_nodes + 1)[:num_nodes]

    outgoing_N3, incoming_N3 = sums(gradient_E3)
    if not need_virial:
        return outgoing_N3 - incoming_N3, None
    outgoing_N33, incoming_N33 = sums(-0.5 * vectors_E3.unsqueeze(2) * gradient_E3.unsqueeze(1))
    return outgoing_N3 - incoming_N3, outgoing_N33 + incoming_N33


@lru_cache(maxsize=1024)
def _coupling(path: CouplingPath, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2 l_edge + 1, 2 l_out + 1, 2 l_in + 1) coupling of a path as a tensor, uploaded once."""
    return torch.as_tensor(np.ascontiguousarray(path.coupling.transpose(1, 2, 0)), dtype=dtype, device=device)


class _Terms(NamedTuple):
    """A contraction table on a device."""

    factors: tuple[Tensor, ...]  # component index of the first, second, .. factor of every term
    sum_MT: Tensor  # ones where a term belongs to an output row
    mix: tuple[tuple[Tensor, Tensor], ...]


@lru_cache(maxsize=256)
def _terms(table: ContractionTable, dtype: torch.dtype, device: torch.device) -> _Terms:
    def put(array: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), device=device)

    rows = put(table.rows[None] == np.arange(table.num_rows)[:, None])
    return _Terms(
        factors=tuple(put(column) for column in table.factors.T),
        sum_MT=rows.to(dtype),
        mix=tuple((put(terms), put(matrix)) for terms, matrix in table.mix),
    )


def fold_contraction(weights: Sequence[Tensor], table: ContractionTable) -> Tensor:
    """(S, T, C) polynomial coefficients of each species; weights[i] is the (S, K, C) that belongs to table.mix[i].

    Summed in float64 whatever the weights are: the sums cancel, and they are made once.
    """
    num_species, _, num_channels = weights[0].shape
    folded = weights[0].new_zeros(num_species, len(table.rows), num_channels, dtype=torch.float64)
    for weight, (terms, matrix) in zip(weights, _terms(table, torch.float64, weights[0].device).mix, strict=True):
        folded = folded.index_add(1, terms, matrix @ weight.double())
    return folded.to(weights[0].dtype)


def symmetric_contraction(a_NMC: Tensor, coefficients_STC: Tensor, groups: SpeciesGroups, table: ContractionTable) -> Tensor:
    """(N, M', C): per channel a polynomial of the components of A with the coefficients of the atom's species.

    Batatia et al., MACE (2022), equations 10 and 11.
    """

    factors, sum_MT, _ = _terms(table, a_NMC.dtype, a_NMC.device)
    # A component that is one everywhere fills up the terms of lower order.
    a_SAMC = nn.functional.pad(groups.gather(a_NMC), (0, 0, 0, 1), value=1.0)
    terms_SATC = coefficients_STC.index_select(0, groups.present_S).unsqueeze(1)
    for column in factors:
        terms_SATC = terms_SATC * a_SAMC.index_select(2, column)
    return groups.scatter(sum_MT @ terms_SATC)
