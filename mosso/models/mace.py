"""MACE: higher-order equivariant message passing (Batatia et al., NeurIPS 2022, arXiv:2206.07697).

One Interaction covers the four released variants; everything that depends on positions enters through edge vectors.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from mosso import kernels
from mosso.graph.graph import Graph
from mosso.math.coupling import CouplingPath, contraction_table, convolution_paths
from mosso.math.harmonics import spherical_harmonics
from mosso.math.irreps import Irreps, block_starts, degree_slices
from mosso.math.radial import agnesi_transform, bessel_basis, polynomial_envelope
from mosso.models.base import Evaluator, NodeOutput
from mosso.models.blocks import StockModule, below, split_linear, split_species_linear, to_channel_major
from mosso.models.zbl import ZBL
from mosso.precision import Precision

INTERACTIONS = ("RealAgnostic", "RealAgnosticResidual", "RealAgnosticDensity", "RealAgnosticDensityResidual")


@dataclass(frozen=True)
class MACESpec:
    """The architecture as plain data.

    Attributes:
        species: atomic numbers, ascending.
        r_max: cutoff, Angstrom.
        num_bessel, num_polynomial_cutoff: radial basis size and envelope order p.
        max_ell: highest degree of the edge harmonics and of A.
        hidden_irreps: node features between layers, e.g. ``128x0e+128x1o``.
        correlation: per layer, order nu of the symmetric contraction (body order nu + 1).
        interactions: per layer, one of INTERACTIONS.
        radial_mlp: hidden widths of the radial network.
        readout_mlp: hidden scalars per head of the last readout.
        heads: names of the readout heads.
        avg_num_neighbors: per layer, divisor of the message (unused by the Density variants).
        distance_transform: ``none`` or ``agnesi``.
        pair_repulsion: ZBL core repulsion.
        scale_shift: whether interaction energies (ZBL included) are scaled and shifted per head.
        activation_constant: factor on silu that gives it unit second moment, as stored in the checkpoint.
        charge, spin: total charge and spin multiplicity the model stands for.
    """

    species: tuple[int, ...]
    r_max: float
    num_bessel: int
    num_polynomial_cutoff: int
    max_ell: int
    hidden_irreps: str
    correlation: tuple[int, ...]
    interactions: tuple[str, ...]
    radial_mlp: tuple[int, ...]
    readout_mlp: int
    heads: tuple[str, ...]
    avg_num_neighbors: tuple[float, ...]
    distance_transform: str
    pair_repulsion: bool
    scale_shift: bool
    activation_constant: float
    apply_cutoff: bool = True
    charge: float = 0.0
    spin: int = 1

    def __post_init__(self) -> None:
        layers = len(self.interactions)
        if not (len(self.correlation) == len(self.avg_num_neighbors) == layers):
            raise ValueError(f"{layers} interactions need as many entries of correlation and avg_num_neighbors.")
        for kind in self.interactions:
            if kind not in INTERACTIONS:
                raise ValueError(f"MACE interaction {kind!r} is not supported: mosso knows {', '.join(INTERACTIONS)}.")
        if self.distance_transform not in ("none", "agnesi"):
            raise ValueError(f"Distance transform {self.distance_transform!r} is not supported: mosso knows none and agnesi.")
        if list(self.species) != sorted(set(self.species)):
            raise ValueError("The species of a MACE must be distinct atomic numbers in ascending order.")

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """From JSON types; unknown or missing entries are a ValueError."""
        known = {f.name for f in fields(cls)}
        if extra := sorted(set(plain) - known):
            raise ValueError(f"The MACE specification has entries this version of mosso cannot honour: {', '.join(extra)}.")
        frozen: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
        try:
            return cls(**frozen)
        except TypeError as error:
            raise ValueError(f"The MACE specification is incomplete: {error}.") from None

    @property
    def num_channels(self) -> int:
        return Irreps.parse(self.hidden_irreps).channels_and_degrees()[0]

    @property
    def num_layers(self) -> int:
        return len(self.interactions)

    def degrees_in(self, layer: int) -> tuple[int, ...]:
        """Degrees of the node features that enter ``layer``."""
        return (0,) if layer == 0 else self.degrees_out(layer - 1)

    def degrees_out(self, layer: int) -> tuple[int, ...]:
        """Degrees of the node features that leave ``layer``; only scalars leave the last one."""
        return (0,) if layer == self.num_layers - 1 else Irreps.parse(self.hidden_irreps).channels_and_degrees()[1]


class EdgeFeatures(NamedTuple):
    """What every layer reads of the edges: (E, M) harmonics, (E, K) radial features, (E, 1) envelope."""

    harmonics_EM: Tensor
    radial_EK: Tensor
    envelope_E1: Tensor


class Interaction(StockModule):
    """Messages A of one layer: equation 8 of the paper, mixed over paths and divided by the number of neighbours.

    The released variants differ in two choices: where the species-dependent layer ``skip_tp`` acts (on the node
    features, as a residual added after the product; or on the messages), and what divides the sum over edges
    (a constant, or a learned density of the neighbourhood).
    """

    def __init__(self, spec: MACESpec, layer: int, tensors: Mapping[str, Tensor], precision: Precision) -> None:
        super().__init__(tensors, precision.storage)
        kind = spec.interactions[layer]
        self.spec, self.matmul = spec, precision.matmul
        self.residual, self.density = kind.endswith("Residual"), "Density" in kind
        self.average = 1.0 if self.density else spec.avg_num_neighbors[layer]
        self.degrees_in = spec.degrees_in(layer)
        self.degrees_skip = tuple(d for d in self.degrees_in if d in spec.degrees_out(layer))
        self.degrees_A = tuple(range(spec.max_ell + 1))
        self.paths: tuple[CouplingPath, ...] = convolution_paths(self.degrees_in, spec.max_ell)

    class Folded(NamedTuple):
        up: list[Tensor]
        mix: list[Tensor]
        skip: list[Tensor]

    def fold(self) -> Folded:
        channels, num_species = self.spec.num_channels, len(self.spec.species)
        per_degree = [channels * sum(path.l_out == d for path in self.paths) for d in self.degrees_A]
        return self.Folded(
            up=split_linear(self.linear_up.weight, [(channels, channels)] * len(self.degrees_in), [channels**-0.5] * len(self.degrees_in)),
            mix=split_linear(
                self.linear.weight,
                [(rows, channels) for rows in per_degree],
                [rows**-0.5 / self.average for rows in per_degree],
            ),
            skip=split_species_linear(self.skip_tp.weight, num_species, channels, channels),
        )

    def forward(self, h_NMC: Tensor, edges: EdgeFeatures, graph: Graph, groups: kernels.SpeciesGroups) -> tuple[Tensor, Tensor | None]:
        """(N, 16, C) messages A and the residual (N, M, C), None for the variants without one."""
        sums_NKC = kernels.edge_convolution(
            self.up(h_NMC), edges.harmonics_EM, self.path_weights(edges), *graph.rows, self.degrees_in, self.paths
        )
        density_N1 = self.neighbourhood_density(edges, graph, h_NMC.shape[0]) if self.density else None
        return self.messages(self.mix(sums_NKC), density_N1, groups), self.kept(h_NMC, groups)

    def up(self, h_NMC: Tensor) -> Tensor:
        """(N, M, C) what the neighbours see of the node features."""
        starts = block_starts(self.degrees_in, self.degrees_in)
        return kernels.path_linear(h_NMC, self.folded().up, self.degrees_in, starts, self.matmul)

    def mix(self, sums_NKC: Tensor) -> Tensor:
        """(N, 16, C) of the (N, K, C) sums over edges of all paths."""
        starts = block_starts(self.degrees_A, [path.l_out for path in self.paths])
        return kernels.path_linear(sums_NKC, self.folded().mix, self.degrees_A, starts, self.matmul)

    def messages(self, a_NMC: Tensor, density_N1: Tensor | None, groups: kernels.SpeciesGroups) -> Tensor:
        """(N, 16, C) A, divided by the density and, without a residual, mixed by species."""
        if density_N1 is not None:
            a_NMC = a_NMC / (1.0 + density_N1).unsqueeze(2)
        return a_NMC if self.residual else self._by_species(a_NMC, self.degrees_A, groups)

    def kept(self, h_NMC: Tensor, groups: kernels.SpeciesGroups) -> Tensor | None:
        """(N, M, C) residual: the node features that go past the product, mixed by species."""
        if not self.residual:
            return None
        # The degrees that are kept come first, so their rows are found in all of h as in a slice of it.
        return self._by_species(h_NMC, self.degrees_skip, groups)

    def _by_species(self, x_NMC: Tensor, degrees: tuple[int, ...], groups: kernels.SpeciesGroups) -> Tensor:
        """(N, M, C) the layer whose weights belong to the species of the atom."""
        return kernels.species_path_linear(x_NMC, self.folded().skip, degrees, block_starts(degrees, degrees), groups, self.matmul)

    def path_weights(self, edges: EdgeFeatures) -> Tensor:
        """(E, P, C) radial weights of every path."""
        layers = [getattr(self.conv_tp_weights, f"layer{i}").weight for i in range(len(self.spec.radial_mlp) + 1)]
        weights_EPC = kernels.radial_mlp(edges.radial_EK, layers, self.spec.activation_constant)
        if not self.spec.apply_cutoff:
            weights_EPC = weights_EPC * edges.envelope_E1
        return weights_EPC.view(-1, len(self.paths), self.spec.num_channels)

    def neighbourhood_density(self, edges: EdgeFeatures, graph: Graph, num_nodes: int) -> Tensor:
        """(N, 1) learned measure of how crowded a neighbourhood is."""
        density_E1 = kernels.radial_mlp(edges.radial_EK, [self.density_fn.layer0.weight], 1.0).square().tanh()
        if not self.spec.apply_cutoff:
            density_E1 = density_E1 * edges.envelope_E1
        return kernels.segment_sum(density_E1, graph.receivers_E, num_nodes)


class Product(StockModule):
    """Many-body features: the symmetric contraction of A (equations 10, 11), mixed over channels, plus the residual."""

    def __init__(self, spec: MACESpec, layer: int, tensors: Mapping[str, Tensor], precision: Precision) -> None:
        super().__init__(tensors, precision.storage)
        self.channels, self.degrees, self.matmul = spec.num_channels, spec.degrees_out(layer), precision.matmul
        self.orders = range(1, spec.correlation[layer] + 1)
        stock = below(tensors, "symmetric_contractions.contractions.")
        u_tensors = []
        for i, degree in enumerate(self.degrees):
            of_degree = [stock[f"{i}.U_matrix_{nu}"].cpu().double().numpy() for nu in self.orders]
            u_tensors.append([u[None] if degree == 0 and u.ndim == nu + 1 else u for nu, u in zip(self.orders, of_degree, strict=True)])
        self.table = contraction_table(u_tensors)

    class Folded(NamedTuple):
        coefficients_STC: Tensor
        mix: list[Tensor]

    def fold(self) -> Folded:
        weights = []
        for contraction in self.symmetric_contractions.contractions.children():
            highest = self.orders[-1]
            weights += [
                contraction.weights_max if nu == highest else getattr(contraction.weights, str(highest - 1 - nu)) for nu in self.orders
            ]
        blocks = [(self.channels, self.channels)] * len(self.degrees)
        return self.Folded(
            coefficients_STC=kernels.fold_contraction(weights, self.table),
            mix=split_linear(self.linear.weight, blocks, [self.channels**-0.5] * len(self.degrees)),
        )

    def forward(self, a_NMC: Tensor, residual_NMC: Tensor | None, groups: kernels.SpeciesGroups) -> Tensor:
        """(N, M, C) node features of the next layer."""
        starts = block_starts(self.degrees, self.degrees)
        h_NMC = kernels.path_linear(self.contract(a_NMC, groups), self.folded().mix, self.degrees, starts, self.matmul)
        if residual_NMC is None:
            return h_NMC
        if residual_NMC.shape == h_NMC.shape:
            return h_NMC + residual_NMC
        # The residual carries the degrees both layers have, which are always the lowest ones.
        return h_NMC + nn.functional.pad(residual_NMC, (0, 0, 0, h_NMC.shape[1] - residual_NMC.shape[1]))

    def contract(self, a_NMC: Tensor, groups: kernels.SpeciesGroups) -> Tensor:
        """(N, M, C) the symmetric contraction alone."""
        return kernels.symmetric_contraction(a_NMC, self.folded().coefficients_STC, groups, self.table)


class Readout(StockModule):
    """Per-atom energy of one head from the scalars of one layer: linear, or a one-layer network after the last layer."""

    def __init__(self, spec: MACESpec, tensors: Mapping[str, Tensor], precision: Precision) -> None:
        super().__init__(tensors, precision.storage)
        self.spec, self.is_linear, self.dtype = spec, "linear.weight" in tensors, precision.energy

    class Folded(NamedTuple):
        first: Tensor
        second: Tensor | None

    def fold(self) -> Folded:
        """(C, heads) of the linear readout; else (C, heads * hidden) and (heads * hidden, heads). As exact as energies."""
        num_heads, hidden = len(self.spec.heads), self.spec.readout_mlp
        channels = self.spec.num_channels
        if self.is_linear:
            return self.Folded(self.linear.weight.view(channels, num_heads).to(self.dtype) / channels**0.5, None)
        second = self.linear_2.weight.view(num_heads * hidden, num_heads).to(self.dtype)
        second = second * (self.spec.activation_constant / (num_heads * hidden) ** 0.5)
        return self.Folded(self.linear_1.weight.view(channels, num_heads * hidden).to(self.dtype) / channels**0.5, second)

    def forward(self, h_NMC: Tensor, head: int) -> Tensor:
        """(N,) unscaled interaction energy."""
        weights: Readout.Folded = self.folded()
        if weights.second is None:
            return kernels.readout(h_NMC, weights.first[:, head : head + 1])
        own = slice(head * self.spec.readout_mlp, (head + 1) * self.spec.readout_mlp)
        return kernels.readout(h_NMC, weights.first[:, own], weights.second[own, head])


class MACE(nn.Module):
    """The potential. ``tensors`` are the stock weights; mosso.models.initial makes fresh ones."""

    def __init__(self, spec: MACESpec, tensors: Mapping[str, Tensor], precision: Precision) -> None:
        super().__init__()
        self.spec, self.precision = spec, precision
        layers = range(spec.num_layers)
        self.node_embedding = StockModule(below(tensors, "node_embedding."), precision.storage)
        self.interactions = nn.ModuleList(Interaction(spec, i, below(tensors, f"interactions.{i}."), precision) for i in layers)
        self.products = nn.ModuleList(Product(spec, i, below(tensors, f"products.{i}."), precision) for i in layers)
        self.readouts = nn.ModuleList(Readout(spec, below(tensors, f"readouts.{i}."), precision) for i in layers)
        # Constants of the radial part and everything that is summed into energies stay in double precision.
        for name in ("radial_embedding", "atomic_energies_fn", "scale_shift"):
            if part := below(tensors, f"{name}."):
                self.add_module(name, StockModule(part, torch.float64))
        if spec.pair_repulsion:
            self.pair_repulsion_fn = ZBL(below(tensors, "pair_repulsion_fn."), spec.species)
        self.register_buffer("numbers_S", torch.tensor(spec.species), persistent=False)
        transform = below(tensors, "radial_embedding.distance_transform.")
        self.agnesi = [float(transform[name]) for name in "qpa"] if spec.distance_transform == "agnesi" else []

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @property
    def cutoff(self) -> float:
        return self.spec.r_max

    @property
    def species(self) -> tuple[int, ...]:
        return self.spec.species

    @property
    def heads(self) -> tuple[str, ...]:
        return self.spec.heads

    @property
    def charge(self) -> float:
        return self.spec.charge

    @property
    def spin(self) -> int:
        return self.spec.spin

    def for_species(self, present: tuple[int, ...]) -> Evaluator:
        """Itself: it is the same for all elements."""
        return self

    def describe(self) -> dict[str, Any]:
        """The specification as JSON types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.spec).items()}

    def forward(
        self, vectors_E3: Tensor, species_N: Tensor, graph: Graph, head: int = 0, groups: kernels.SpeciesGroups | None = None
    ) -> NodeOutput:
        """Per-atom energies (eV) of atoms ``species_N`` (N,) joined by edge vectors (E, 3) float64, Angstrom.

        ``groups`` are made from the species where they are not given, which waits for the device.
        """
        groups = kernels.SpeciesGroups.of(species_N) if groups is None else groups
        distance_E = torch.linalg.vector_norm(vectors_E3, dim=1)
        edges = self.edge_features(vectors_E3, distance_E, species_N, graph)

        h_NMC = self.embedding()[species_N].unsqueeze(1)
        energy_N = self.repulsion(vectors_E3, species_N, graph)
        descriptors = []
        for layer, (interaction, product, readout) in enumerate(zip(self.interactions, self.products, self.readouts, strict=True)):
            a_NMC, residual_NMC = interaction(h_NMC, edges, graph, groups)
            h_NMC = product(a_NMC, residual_NMC, groups)
            energy_N = energy_N + readout(h_NMC, head)
            descriptors.append(to_channel_major(h_NMC, degree_slices(self.spec.degrees_out(layer))))

        return NodeOutput(self.total_energy(energy_N, species_N, head), torch.cat(descriptors, dim=1))

    def bond_lengths(self) -> Tensor:
        """(S, S) float64, Angstrom, mean of the covalent radii of two species: the length unit of the Agnesi transform."""
        radii_S = self.radial_embedding.distance_transform.covalent_radii[self.numbers_S]
        return 0.5 * (radii_S.unsqueeze(1) + radii_S)

    def embedding(self) -> Tensor:
        """(S, C) node features of isolated species."""
        return self.node_embedding.linear.weight.view(len(self.species), -1) / len(self.species) ** 0.5

    def total_energy(self, energy_N: Tensor, species_N: Tensor, head: int) -> Tensor:
        """(N,) float64, eV, of the interaction energies: scaled, shifted and with the energies of isolated atoms."""
        base_S = self.atomic_energies_fn.atomic_energies.view(-1, len(self.species))[head]
        if not self.spec.scale_shift:
            return energy_N + base_S[species_N]
        base_S = base_S + self.scale_shift.shift.reshape(-1)[head]
        return torch.addcmul(base_S[species_N], energy_N, self.scale_shift.scale.reshape(-1)[head])

    def edge_features(self, vectors_E3: Tensor, distance_E: Tensor, species_N: Tensor, graph: Graph) -> EdgeFeatures:
        """Harmonics, radial basis and envelope of every edge."""
        spec, radial = self.spec, self.radial_embedding
        vectors, distance = vectors_E3.to(self.precision.geometry), distance_E.to(self.precision.geometry)
        envelope_E1 = polynomial_envelope(distance, spec.r_max, spec.num_polynomial_cutoff).unsqueeze(1)
        argument = distance
        if spec.distance_transform == "agnesi":
            bond_SS = self.bond_lengths().to(distance.dtype)
            argument = agnesi_transform(distance, bond_SS[species_N[graph.senders_E], species_N[graph.receivers_E]], *self.agnesi)
        radial_EK = bessel_basis(argument, radial.bessel_fn.bessel_weights.to(distance.dtype), spec.r_max)
        if spec.apply_cutoff:
            radial_EK = radial_EK * envelope_E1
        harmonics_EM = spherical_harmonics(vectors / distance.unsqueeze(1), spec.max_ell)
        compute = self.precision.compute
        return EdgeFeatures(harmonics_EM.to(compute), radial_EK.to(compute), envelope_E1.to(compute))

    def repulsion(self, vectors_E3: Tensor, species_N: Tensor, graph: Graph) -> Tensor:
        """(N,) float64, eV, energy of each receiver; zero without pair repulsion."""
        if not self.spec.pair_repulsion:
            return vectors_E3.new_zeros(species_N.shape[0])
        energy_N: Tensor = self.pair_repulsion_fn(vectors_E3, species_N, graph)
        return energy_N
