"""Ops on the features of atoms: linear layers over paths and species, and the symmetric contraction."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mosso.math.coupling import ContractionTable
from mosso.precision import MATMULS

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


def readout(h_NMC: Tensor, first_CH: Tensor, second_H: Tensor | None = None) -> Tensor:
    """(N,) energies read from the scalars of atoms, in the dtype of the weights whatever that of the features is.

    silu(s @ first) @ second with s = h[:, 0]; without ``second`` the one column of s @ first. Batatia et al., MACE (2022), section 4.
    """
    hidden_NH = h_NMC[:, 0].to(first_CH.dtype) @ first_CH
    return hidden_NH.squeeze(1) if second_H is None else nn.functional.silu(hidden_NH) @ second_H


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
