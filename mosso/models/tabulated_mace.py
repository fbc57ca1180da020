"""MACE for simulations: the same potential with its radial networks tabulated and its constants multiplied out at load."""

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import combinations_with_replacement
from operator import add
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from mosso import kernels
from mosso.graph.graph import Graph
from mosso.math.irreps import block_starts
from mosso.math.radial import agnesi_transform, bessel_basis, polynomial_envelope
from mosso.math.tabulate import RadialFunction, choose_intervals, tabulate, tabulate_values, value_error
from mosso.models.base import Evaluator, NodeOutput
from mosso.models.mace import MACE, Interaction, MACESpec, Product, Readout

# With more species the first layer is a convolution as the others are: moments are kept for every species of sender.
MAX_MOMENTS = 16
# More kinds of pairs, where each has tables of its own, are left to the stock form: those of one take tens of megabytes.
MAX_KINDS = 36
# Intervals of a table for derivatives that may be one for values, the largest number first, while these have so many; and the error
# that they may have, as a share of that of the derivatives. Tables of fewer intervals are in near caches anyway.
RATIOS, LEAST_INTERVALS, VALUES_SHARE = (4, 2), 256, 0.5
# Sets of species whose tables are kept when no system uses them.
NUM_KEPT = 4


@dataclass(frozen=True, eq=False)
class Radial:
    """Radial functions as piecewise cubics, the same for all species or block after block for each kind of pair.

    Attributes:
        num_intervals: on [0, r_max); a block has num_intervals + ratio rows, the last of which are zero.
        ratio: of their number to that of ``coarse_RPCQ``.
        sums_RQK: what the first layer sums over edges whatever the features of the sender: the hidden functions of its network
            where it is made of moments, then the density function of each layer that has one.
        weights_RPCQ: path weights of the layers that are convolutions, the last ones.
        coarse_RPCQ: the same on fewer intervals or in a shorter format, or just the same: good enough for the convolution itself, not for
            its derivatives.
    """

    num_intervals: int
    ratio: int
    sums_RQK: Tensor
    weights_RPCQ: tuple[Tensor, ...]
    coarse_RPCQ: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Tables:
    """What depends on the species of a system.

    Attributes:
        radial: their radial functions.
        first_row_SS: (S, S) int32, first row of a pair of species; None where one block serves all.
        first_mix: for each degree (S * K, C), from the moments of all species to the messages of the first layer; empty where that
            is a convolution.
        up_mix: for each degree (C, C), from the products of the first layer to what the neighbours see in the second; empty without one.
        x_SC: (S, C) what the neighbours see of an atom in the first layer.
        residual_SC: (S, C) residual of the first layer; None without one.
        up_SC: (S, C) what they see of it in the second layer.
    """

    radial: Radial
    first_row_SS: Tensor | None
    first_mix: tuple[Tensor, ...]
    up_mix: tuple[Tensor, ...]
    x_SC: Tensor
    residual_SC: Tensor | None
    up_SC: Tensor | None


def degrees_asked(spec: MACESpec) -> tuple[int, ...]:
    """Of the node features behind the first layer, those that anyone but the convolution of the second asks for."""
    if spec.num_layers > 1 and spec.interactions[1].endswith("Residual"):
        return tuple(d for d in spec.degrees_out(0) if d in spec.degrees_out(1))
    return (0,)


class TableError(ValueError):
    """Tables would not be accurate enough."""


class TabulatedMACE(nn.Module):
    """Energies and first derivatives of a MACE in evaluation mode, on a GPU many times faster than the stock form.

    What changes is how radial weights are made and in which order sums are taken. Both are exact but for the error of the
    tables, which is measured when they are made (``Precision.table_error``):

    * Path weights depend on the distance alone (and on the two species where a distance transform uses their radii). They are
      piecewise cubics here, looked up per edge.
    * Node features of the first layer depend on the species alone. Where these are few, its sum over edges is taken of hidden
      radial functions times harmonics for each species of sender; the last radial layer, ``linear_up`` and the mixing of paths
      follow as one matrix per species and degree.
    * What the neighbours see in the second layer is made of the products of the first by one matrix per degree, so that of the node
      features between them only those are made that the readout and the residual ask for, mostly scalars.
    """

    def __init__(self, model: MACE) -> None:
        super().__init__()
        self.stock, self.spec, self.precision = model, model.spec, model.precision
        self._forget()

    def _forget(self) -> None:
        # Tables live as long as an evaluator holds them: a CUDA graph may read them.
        self._tables: WeakValueDictionary[tuple[int, ...], Tables] = WeakValueDictionary()
        self._kept: deque[Tables] = deque(maxlen=NUM_KEPT)
        self._common: dict[bool, Radial] = {}

    def _apply(self, fn: Any, recurse: bool = True) -> "TabulatedMACE":
        self._forget()
        return super()._apply(fn, recurse)

    def for_species(self, present: tuple[int, ...]) -> Evaluator:
        """The evaluator of systems made of the species ``present``; it holds their tables.

        The stock form where their pairs are too many for tables, or where its radial functions cannot be tabulated as accurately as
        the policy asks, which a warning then says.
        """
        num_kinds = 1 if self.spec.distance_transform == "none" else len(present) * (len(present) + 1) // 2
        if not present or num_kinds > MAX_KINDS:
            return self.stock
        try:
            return partial(self._evaluate, self.tables(present))
        except TableError as error:
            warnings.warn(f"{error}: using the radial networks themselves, which is slower.", stacklevel=2)
            return self.stock

    def tables(self, present: tuple[int, ...]) -> Tables:
        """The tables of the species ``present``; a TableError where they would not be accurate enough."""
        tables = self._tables.get(present)
        if tables is None:
            with torch.no_grad():
                tables = self._make_tables(present)
            self._tables[present] = tables
            self._kept.append(tables)
        return tables

    def forward(
        self, vectors_E3: Tensor, species_N: Tensor, graph: Graph, head: int = 0, groups: kernels.SpeciesGroups | None = None
    ) -> NodeOutput:
        """Per-atom energies as ``MACE.forward``; no descriptors."""
        groups = kernels.SpeciesGroups.of(species_N) if groups is None else groups
        return self.for_species(groups.present)(vectors_E3, species_N, graph, head, groups)

    def _evaluate(
        self,
        tables: Tables,
        vectors_E3: Tensor,
        species_N: Tensor,
        graph: Graph,
        head: int = 0,
        groups: kernels.SpeciesGroups | None = None,
    ) -> NodeOutput:
        spec, stock, radial = self.spec, self.stock, tables.radial
        groups = kernels.SpeciesGroups.of(species_N) if groups is None else groups
        features_EJ, rows_E = kernels.edge_features(vectors_E3, spec.max_ell, spec.r_max, radial.num_intervals, self.precision.compute)
        if tables.first_row_SS is not None:
            rows_E = rows_E + tables.first_row_SS[groups.group_N[graph.senders_E], groups.group_N[graph.receivers_E]]
        energies = []
        if spec.pair_repulsion:
            energies.append(stock.repulsion(vectors_E3, species_N, graph))
        visits = kernels.visiting_order(rows_E, graph.senders_E, graph.receiver_offsets) if radial.weights_RPCQ else None
        a_NMC, density = self._first_layer(features_EJ, rows_E, visits, graph, groups, tables)
        h_NMC, x_NMC = self._first_product(a_NMC, groups, tables)
        energies.append(cast(Readout, stock.readouts[0])(h_NMC, head))
        for layer in range(1, spec.num_layers):
            interaction, product = cast(Interaction, stock.interactions[layer]), cast(Product, stock.products[layer])
            if layer > 1:
                x_NMC = interaction.up(h_NMC)
            # The sums have no name: nothing of an evaluation takes more memory, and nobody needs them once they are mixed.
            a_NMC = interaction.mix(self._convolve(layer, x_NMC, features_EJ, rows_E, visits, graph, radial))
            a_NMC = interaction.messages(a_NMC, density.get(layer), groups)
            h_NMC = product(a_NMC, interaction.kept(h_NMC, groups), groups)
            energies.append(cast(Readout, stock.readouts[layer])(h_NMC, head))
        return NodeOutput(stock.total_energy(reduce(add, energies), species_N, head), None)

    def _first_layer(
        self,
        features_EJ: Tensor,
        rows_E: Tensor,
        visits: kernels.Visits | None,
        graph: Graph,
        groups: kernels.SpeciesGroups,
        tables: Tables,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """(N, 16, C) messages of the first layer, and the (N, 1) density of each layer that has one."""
        interaction, radial = cast(Interaction, self.stock.interactions[0]), tables.radial

        def summed(group_N: Tensor, num_groups: int) -> Tensor:
            edges = (graph.senders_E, graph.receivers_E, graph.receiver_offsets)
            return kernels.radial_moments(features_EJ, rows_E, radial.sums_RQK, group_N, num_groups, *edges)

        if tables.first_mix:
            moments_NJZK = summed(groups.group_N, len(groups.present))
            degrees = interaction.degrees_A
            starts = block_starts(degrees, degrees)
            a_NMC = kernels.path_linear(moments_NJZK.flatten(2), tables.first_mix, degrees, starts, self.precision.matmul)
            density = self._densities(moments_NJZK)
        else:
            density = self._densities(summed(torch.zeros_like(groups.group_N), 1)) if self._density_layers else {}
            x_NMC = tables.x_SC[groups.group_N].unsqueeze(1)
            a_NMC = interaction.mix(self._convolve(0, x_NMC, features_EJ, rows_E, visits, graph, radial))
        return interaction.messages(a_NMC, density.get(0), groups), density

    def _first_product(self, a_NMC: Tensor, groups: kernels.SpeciesGroups, tables: Tables) -> tuple[Tensor, Tensor]:
        """(N, M', C) node features behind the first layer, of the degrees that are asked for; (N, M, C) what the neighbours see of all,
        where there is a second layer."""
        product, matmul = cast(Product, self.stock.products[0]), self.precision.matmul
        product_NMC = product.contract(a_NMC, groups)

        def mixed(mix: Sequence[Tensor], degrees: tuple[int, ...], of_species_SC: Tensor | None) -> Tensor:
            starts = block_starts(degrees, product.degrees)
            return kernels.path_linear(product_NMC, mix, degrees, starts, matmul, of_species_SC, groups.group_N)

        degrees = degrees_asked(self.spec)
        h_NMC = mixed(product.folded().mix[: len(degrees)], degrees, tables.residual_SC)
        return h_NMC, mixed(tables.up_mix, product.degrees, tables.up_SC) if tables.up_mix else h_NMC

    def _convolve(
        self,
        layer: int,
        x_NMC: Tensor,
        features_EJ: Tensor,
        rows_E: Tensor,
        visits: kernels.Visits | None,
        graph: Graph,
        radial: Radial,
    ) -> Tensor:
        interaction, place = cast(Interaction, self.stock.interactions[layer]), layer - self.spec.num_layers
        paths = (interaction.degrees_in, interaction.paths, visits, radial.coarse_RPCQ[place])
        return kernels.tabulated_convolution(x_NMC, features_EJ, rows_E, radial.weights_RPCQ[place], *graph.rows, *paths)

    def _densities(self, sums_NJZK: Tensor) -> dict[int, Tensor]:
        """(N, 1) for each layer that has a density: the last of what is summed, from senders of all species, times one."""
        layers = self._density_layers
        return {layer: sums_NJZK[:, 0, :, place - len(layers)].sum(1, keepdim=True) for place, layer in enumerate(layers)}

    @property
    def device(self) -> torch.device:
        return self.stock.numbers_S.device

    @property
    def _density_layers(self) -> list[int]:
        return [layer for layer, interaction in enumerate(self.stock.interactions) if interaction.density]

    def _make_tables(self, present: tuple[int, ...]) -> Tables:
        precision, device = self.precision, self.device
        moments = len(present) <= MAX_MOMENTS
        bonds, kind_SS = self._kinds_of_pairs(present)
        # Without a distance transform they are the same for all.
        radial = self._common.get(moments) if kind_SS is None else None
        if radial is None:
            radial = self._radial_tables(bonds, moments)
        if kind_SS is None:
            self._common[moments] = radial
        first_row_SS = None if kind_SS is None else (kind_SS * (radial.num_intervals + radial.ratio)).to(device)
        x_SC, first_mix, residual_SC = self._fold_first_layer(present, moments)
        up_mix, up_SC = self._fold_second_up(residual_SC)
        first, up = (tuple(matrix.to(device, precision.compute) for matrix in mix) for mix in (first_mix, up_mix))
        residual_SC, up_SC = (None if part is None else part.to(device, precision.compute) for part in (residual_SC, up_SC))
        return Tables(radial, first_row_SS, first, up, x_SC.to(device, precision.compute), residual_SC, up_SC)

    def _radial_tables(self, bonds: list[Tensor | None], moments: bool) -> Radial:
        """Block after block for each bond length; ``moments``: whether the first layer is made of them."""
        spec, precision = self.spec, self.precision
        functions = [[partial(self._summed, bond=bond, moments=moments) for bond in bonds]]
        functions += [
            [partial(self._path_weights, layer=layer, bond=bond) for bond in bonds] for layer in range(int(moments), spec.num_layers)
        ]
        first, *convolved = functions
        num_intervals = max(self._choose_intervals(function) for of_layer in functions for function in of_layer)
        ratio = self._choose_ratio([function for of_layer in convolved for function in of_layer], num_intervals)
        num_rows = num_intervals + ratio
        sums_RQK = self._blocks(tabulate, first, num_intervals, num_rows).to(precision.compute)
        weights_RPCQ = tuple(self._by_path(tabulate, of_layer, num_intervals, num_rows, precision.compute) for of_layer in convolved)
        coarse_RPCQ = weights_RPCQ
        if ratio > 1 or precision.table != precision.compute:
            coarse = (num_intervals // ratio, num_rows // ratio, precision.table)
            coarse_RPCQ = tuple(self._by_path(tabulate_values, of_layer, *coarse) for of_layer in convolved)
        return Radial(num_intervals, ratio, sums_RQK, weights_RPCQ, coarse_RPCQ)

    def _blocks(self, make: Callable[..., Tensor], functions: Sequence[RadialFunction], num_intervals: int, num_rows: int) -> Tensor:
        """(blocks * num_rows, 4, D) tables of ``functions`` one below the other, rows of zeros at the end of each."""
        tables = (make(function, self.spec.r_max, num_intervals, self.device) for function in functions)
        return torch.cat([nn.functional.pad(table, (0, 0, 0, 0, 0, num_rows - table.shape[0])) for table in tables])

    def _by_path(
        self, make: Callable[..., Tensor], functions: Sequence[RadialFunction], num_intervals: int, num_rows: int, dtype: torch.dtype
    ) -> Tensor:
        """(R, P, C, 4) ``_blocks`` of path weights."""
        table_RQD = self._blocks(make, functions, num_intervals, num_rows).to(dtype)
        return table_RQD.unflatten(2, (-1, self.spec.num_channels)).permute(0, 2, 3, 1).contiguous()

    def _choose_ratio(self, functions: Sequence[RadialFunction], num_intervals: int) -> int:
        """How many intervals may be one for the values of ``functions``."""
        precision, r_max = self.precision, self.spec.r_max
        assert precision.table_error is not None

        def serves(ratio: int, most: float) -> bool:
            tables = (tabulate_values(function, r_max, num_intervals // ratio, self.device).to(precision.table) for function in functions)
            return all(value_error(table, function, r_max) <= most for table, function in zip(tables, functions, strict=True))

        for ratio in RATIOS:
            if num_intervals // ratio >= LEAST_INTERVALS and serves(ratio, VALUES_SHARE * precision.table_error):
                return ratio
        # The format itself may be too short, and numbers too large for it.
        if precision.table != precision.compute and not serves(1, precision.table_error):
            raise self._inexact()
        return 1

    def _choose_intervals(self, function: RadialFunction) -> int:
        assert self.precision.table_error is not None
        found = choose_intervals(function, self.spec.r_max, self.precision.table_error, self.precision.compute, self.device)
        if found is None:
            raise self._inexact()
        return found

    def _inexact(self) -> TableError:
        asked = f"{self.precision.table_error:g}, as {self.precision.name} asks"
        return TableError(f"The radial functions cannot be tabulated within {asked}")

    def _kinds_of_pairs(self, present: tuple[int, ...]) -> tuple[list[Tensor | None], Tensor | None]:
        """The bond lengths that occur, and (S, S) int32 which of them a pair has; one kind without a distance transform."""
        if self.spec.distance_transform == "none":
            return [None], None
        bond_SS = self.stock.bond_lengths()
        kind_SS = torch.zeros(len(present), len(present), dtype=torch.int32)
        pairs = list(combinations_with_replacement(range(len(present)), 2))
        for kind, (i, j) in enumerate(pairs):
            kind_SS[i, j] = kind_SS[j, i] = kind
        return [bond_SS[present[i], present[j]] for i, j in pairs], kind_SS

    def _basis(self, distance_R: Tensor, bond: Tensor | None) -> tuple[Tensor, Tensor]:
        """(R, K) float64 inputs of the radial networks at distances (A), and the (R, 1) factor on what comes out of them."""
        spec, stock = self.spec, self.stock
        envelope_R1 = polynomial_envelope(distance_R, spec.r_max, spec.num_polynomial_cutoff).unsqueeze(1)
        argument_R = distance_R if bond is None else agnesi_transform(distance_R, bond, *stock.agnesi)
        basis_RK = bessel_basis(argument_R, stock.radial_embedding.bessel_fn.bessel_weights, spec.r_max)
        return (basis_RK * envelope_R1, torch.ones_like(envelope_R1)) if spec.apply_cutoff else (basis_RK, envelope_R1)

    def _path_weights(self, distance_R: Tensor, layer: int, bond: Tensor | None) -> Tensor:
        """(R, P * C) float64 radial weights of a layer."""
        basis_RK, after_R1 = self._basis(distance_R, bond)
        return kernels.radial_mlp(basis_RK, self._radial_layers(layer), self.spec.activation_constant) * after_R1

    def _summed(self, distance_R: Tensor, bond: Tensor | None, moments: bool) -> Tensor:
        """(R, K) float64, as ``Radial.sums_RQK``."""
        basis_RK, after_R1 = self._basis(distance_R, bond)
        parts = []
        if moments:
            hidden_RK = kernels.radial_mlp(basis_RK, self._radial_layers(0)[:-1], self.spec.activation_constant)
            parts.append(nn.functional.silu(hidden_RK) * self.spec.activation_constant)
        for layer in self._density_layers:
            density_fn = cast(Interaction, self.stock.interactions[layer]).density_fn
            parts.append(kernels.radial_mlp(basis_RK, [density_fn.layer0.weight.double()], 1.0).square().tanh())
        return torch.cat(parts or [basis_RK[:, :0]], dim=1) * after_R1

    def _radial_layers(self, layer: int) -> list[Tensor]:
        """Stock weights of a radial network, float64."""
        network = self.stock.interactions[layer].conv_tp_weights
        return [getattr(network, f"layer{i}").weight.double() for i in range(len(self.spec.radial_mlp) + 1)]

    def _fold_first_layer(self, present: tuple[int, ...], moments: bool) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """``Tables.x_SC``, ``first_mix`` and ``residual_SC`` in float64."""
        interaction = cast(Interaction, self.stock.interactions[0])
        folded = interaction.fold()
        h_SC = self.stock.embedding()[list(present)].double()
        x_SC = h_SC @ folded.up[0].double()
        residual_SC = None
        if interaction.residual:
            residual_SC = torch.einsum("sc,scd->sd", h_SC, folded.skip[0][list(present)].double())
        return x_SC, self._first_mix(x_SC, folded.mix) if moments else [], residual_SC

    def _fold_second_up(self, residual_SC: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        """``Tables.up_mix`` and ``up_SC`` in float64."""
        if self.spec.num_layers == 1:
            return [], None
        mixes, ups = cast(Product, self.stock.products[0]).fold().mix, cast(Interaction, self.stock.interactions[1]).fold().up
        up_mix = [mix.double() @ up.double() for mix, up in zip(mixes, ups, strict=True)]
        return up_mix, None if residual_SC is None else residual_SC @ ups[0].double()

    def _first_mix(self, x_SC: Tensor, mixes: list[Tensor]) -> list[Tensor]:
        paths = cast(Interaction, self.stock.interactions[0]).paths
        last_KPC = self._radial_layers(0)[-1].unflatten(1, (len(paths), -1)) / self.spec.radial_mlp[-1] ** 0.5
        found = []
        for p, (path, mix) in enumerate(zip(paths, mixes, strict=True)):
            # Scalars couple with degree l to degree l as one times a constant.
            factor = float(path.coupling[0, 0, 0])
            functions_SKC = factor * last_KPC[:, p] * x_SC.unsqueeze(1)
            mix_SKC = functions_SKC @ mix.double()
            found.append(nn.functional.pad(mix_SKC, (0, 0, 0, len(self._density_layers))).flatten(0, 1))
        return found
