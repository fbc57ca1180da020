"""Every op in plain torch: the executable specification that faster implementations are tested against.

N atoms, E edges, C channels, M irrep components, P paths, K radial functions, T polynomial terms, S species.
Features are (N, M, C): components of one channel by ascending degree, channels last.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mosso.math.coupling import ContractionTable, CouplingPath
from mosso.math.irreps import degree_slices


def segment_sum(values: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """(num_rows, ...) sums of the values that share an index; rows nothing maps to are zero."""
    return values.new_zeros((num_rows, *values.shape[1:])).index_add(0, index, values)


def linear(x_NMC: Tensor, weights: Sequence[Tensor], degrees: Sequence[int]) -> Tensor:
    """(N, M', D): for each output degree its own channel mixing; weights[d] is (C, D) and already normalised."""
    parts = degree_slices(tuple(degrees))
    return torch.cat([x_NMC[:, part] @ weight for part, weight in zip(parts, weights, strict=True)], dim=1)


class SpeciesGroups(NamedTuple):
    """Atoms brought together by species, so that per-species weights are applied by plain products.

    Attributes:
        order_N: atom indices sorted by species.
        inverse_N: where each atom went.
        counts: (species, number of atoms) of those present, ascending.
    """

    order_N: Tensor
    inverse_N: Tensor
    counts: tuple[tuple[int, int], ...]

    @staticmethod
    def of(species_N: Tensor) -> "SpeciesGroups":
        order_N = torch.argsort(species_N, stable=True)
        present, counts = torch.unique_consecutive(species_N[order_N], return_counts=True)
        return SpeciesGroups(order_N, torch.argsort(order_N), tuple(zip(present.tolist(), counts.tolist(), strict=True)))

    def apply(self, function: Callable[[int, Tensor], Tensor], x_N: Tensor) -> Tensor:
        """function(species, rows) on the rows of each species, results in the order of ``x_N``."""
        if not self.counts:
            return function(0, x_N)
        rows = x_N[self.order_N].split([count for _, count in self.counts]) if len(self.counts) > 1 else [x_N]
        results = [function(species, part) for (species, _), part in zip(self.counts, rows, strict=True)]
        return torch.cat(results)[self.inverse_N] if len(results) > 1 else results[0]


def species_linear(x_NMC: Tensor, weights: Sequence[Tensor], degrees: Sequence[int], groups: SpeciesGroups) -> Tensor:
    """(N, M', D): ``linear`` with weights of each atom's species; weights[d] is (S, C, D)."""
    return groups.apply(lambda species, rows: linear(rows, [w[species] for w in weights], degrees), x_NMC)


def radial_mlp(features_EK: Tensor, weights: Sequence[Tensor], activation_constant: float) -> Tensor:
    """(E, out): layers x W / sqrt(fan-in), scaled silu between them, the last one linear; weights are stock (in, out)."""
    x = features_EK
    for depth, weight in enumerate(weights):
        if depth > 0:
            x = torch.nn.functional.silu(x) * activation_constant
        x = x @ (weight / weight.shape[0] ** 0.5)
    return x


def edge_convolution(
    x_NMC: Tensor,
    harmonics_EM: Tensor,
    weights_EPC: Tensor,
    senders_E: Tensor,
    receivers_E: Tensor,
    degrees_in: tuple[int, ...],
    paths: Sequence[CouplingPath],
) -> list[Tensor]:
    """Per path p, (N, 2 l_out + 1, C): sum over edges of w_p * CG(x of the sender, Y of the edge).

    Batatia et al., MACE (2022), equation 8, before the linear mixing of paths.
    """
    num_nodes = x_NMC.shape[0]
    max_ell = max(path.l_edge for path in paths)
    where_in = dict(zip(degrees_in, degree_slices(degrees_in), strict=True))
    where_edge = degree_slices(tuple(range(max_ell + 1)))
    x_EMC = x_NMC[senders_E]
    sums = []
    for p, path in enumerate(paths):
        coupling_JKI = _coupling(path, x_NMC.dtype, x_NMC.device)
        coupled_EKI = (harmonics_EM[:, where_edge[path.l_edge]] @ coupling_JKI.flatten(1)).unflatten(1, coupling_JKI.shape[1:])
        weighted_EIC = x_EMC[:, where_in[path.l_in]] * weights_EPC[:, p].unsqueeze(1)
        sums.append(segment_sum(coupled_EKI @ weighted_EIC, receivers_E, num_nodes))
    return sums


@lru_cache(maxsize=1024)
def _coupling(path: CouplingPath, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(2 l_edge + 1, 2 l_out + 1, 2 l_in + 1) coupling of a path as a tensor, uploaded once."""
    return torch.as_tensor(np.ascontiguousarray(path.coupling.transpose(1, 2, 0)), dtype=dtype, device=device)


class _Terms(NamedTuple):
    """A contraction table on a device."""

    columns: tuple[tuple[Tensor, ...], ...]  # per order, the component index of every factor
    terms: Tensor
    bounds: tuple[int, ...]  # terms of output row m are bounds[m]:bounds[m+1]
    mix: tuple[tuple[Tensor, Tensor], ...]


@lru_cache(maxsize=256)
def _terms(table: ContractionTable, device: torch.device) -> _Terms:
    def put(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, device=device)

    return _Terms(
        columns=tuple(tuple(put(column.copy()) for column in indices.T) for indices in table.monomials),
        terms=put(table.monomial_of_term),
        bounds=tuple(np.searchsorted(table.rows, np.arange(table.num_rows + 1)).tolist()),
        mix=tuple((put(terms), put(matrix)) for terms, matrix in table.mix),
    )


def fold_contraction(weights: Sequence[Tensor], table: ContractionTable) -> Tensor:
    """(S, T, C) polynomial coefficients of each species; weights[i] is the (S, K, C) that belongs to table.mix[i].

    Summed in float64 whatever the weights are: the sums cancel, and they are made once.
    """
    num_species, _, num_channels = weights[0].shape
    folded = weights[0].new_zeros(num_species, len(table.rows), num_channels, dtype=torch.float64)
    for weight, (terms, matrix) in zip(weights, _terms(table, weights[0].device).mix, strict=True):
        folded = folded.index_add(1, terms, matrix @ weight.double())
    return folded.to(weights[0].dtype)


def symmetric_contraction(a_NMC: Tensor, coefficients_STC: Tensor, groups: SpeciesGroups, table: ContractionTable) -> Tensor:
    """(N, M', C): per channel a polynomial of the components of A with the coefficients of the atom's species.

    Batatia et al., MACE (2022), equations 10 and 11.
    """

    on_device = _terms(table, a_NMC.device)

    def of_species(species: int, a_nMC: Tensor) -> Tensor:
        monomials = []
        for columns in on_device.columns:
            product = a_nMC[:, columns[0]]
            for column in columns[1:]:
                product = product * a_nMC[:, column]
            monomials.append(product)
        monomial_nQC = torch.cat(monomials, dim=1)
        rows = [
            (monomial_nQC[:, on_device.terms[start:stop]] * coefficients_STC[species, start:stop]).sum(1)
            for start, stop in zip(on_device.bounds, on_device.bounds[1:], strict=False)
        ]
        return torch.stack(rows, dim=1)

    return groups.apply(of_species, a_NMC)
