"""The least time each op of a MACE evaluation can take: arithmetic and bytes counted from shapes, against what the device can do.

Bytes are compulsory traffic to memory: every input read once, every output written once. What an op gathers again and again is
counted apart, because it comes from the cache as long as it fits. All for the tabulated form in float32, energy and forces.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from mosso.bench.report import markdown, number
from mosso.math.coupling import CouplingPath, contraction_table, convolution_paths, symmetric_coupling
from mosso.math.horner import horner
from mosso.math.irreps import num_components
from mosso.models.mace import MACESpec

WORD = 4  # bytes of a float32
CUBIC = 4  # coefficients of a cubic
# Multiply-adds of the derivative over those of the op, as counted in the generated kernels (docs/kernels.md).
CONVOLUTION_BACKWARD, CONTRACTION_BACKWARD = 218 / 98, 1400 / 604


@dataclass(frozen=True)
class Rates:
    """What a device can do, per second: multiply-adds count twice."""

    fp32: float
    memory: float


H200 = Rates(fp32=67e12, memory=4.2e12)


@dataclass(frozen=True)
class Size:
    """Atoms, edges, species present and intervals of the tables of one evaluation."""

    atoms: int
    edges: int
    species: int
    intervals: int


@dataclass(frozen=True)
class Cost:
    """One op in one direction.

    Attributes:
        op, direction: name; ``forward`` or ``backward``.
        flops: floating-point operations, a multiply-add counted twice.
        bytes: compulsory traffic to memory.
        gathered: bytes read per edge or atom through the caches beyond that.
    """

    op: str
    direction: str
    flops: float
    bytes: float
    gathered: float = 0.0

    def microseconds(self, rates: Rates) -> float:
        """The larger of arithmetic and traffic at full rate."""
        return 1e6 * max(self.flops / rates.fp32, self.bytes / rates.memory)

    def bound(self, rates: Rates) -> str:
        return "arithmetic" if self.flops / rates.fp32 > self.bytes / rates.memory else "memory"


def costs(spec: MACESpec, size: Size) -> Iterator[Cost]:
    """Every op of one evaluation of energy and forces, two layers or more."""
    components = (spec.max_ell + 1) ** 2
    yield from _edge_features(components, size)
    yield from _radial_moments(components, spec.radial_mlp[-1], size)
    yield from _linear("first mix", components, size.species * spec.radial_mlp[-1], spec.num_channels, size)
    for layer in range(spec.num_layers):
        rows_out = num_components(spec.degrees_out(layer))
        if layer > 0:
            rows_in = num_components(spec.degrees_in(layer))
            paths = convolution_paths(spec.degrees_in(layer), spec.max_ell)
            yield from _linear(f"up {layer}", rows_in, spec.num_channels, spec.num_channels, size)
            yield from _convolution(f"convolution {layer}", spec, rows_in, paths, size)
            sums = num_components(tuple(path.l_out for path in paths))
            yield from _mix(f"mix {layer}", sums, components, spec.num_channels, size)
            kept = num_components(tuple(d for d in spec.degrees_in(layer) if d in spec.degrees_out(layer)))
            yield from _linear(f"residual {layer}", kept, spec.num_channels, spec.num_channels, size)
        yield from _contraction(f"contraction {layer}", spec, layer, rows_out, size)
        yield from _linear(f"product {layer}", rows_out, spec.num_channels, spec.num_channels, size)


def _edge_features(components: int, size: Size) -> Iterator[Cost]:
    written = size.edges * (components * WORD + 4)
    yield Cost("edge features", "forward", 10 * components * size.edges, 24 * size.edges + written)
    yield Cost("edge features", "backward", 20 * components * size.edges, 48 * size.edges + written)


def _radial_moments(components: int, functions: int, size: Size) -> Iterator[Cost]:
    edges, moments = size.edges * (components * WORD + 12), size.atoms * components * size.species * functions * WORD
    table = size.intervals * CUBIC * functions * WORD
    gathered = size.edges * CUBIC * functions * WORD
    outer = 2 * components * functions
    yield Cost("radial moments", "forward", size.edges * (outer + 6 * functions), edges + moments + table, gathered)
    backward = size.edges * (2 * outer + 12 * functions)
    yield Cost("radial moments", "backward", backward, edges + moments + table + size.edges * components * WORD, gathered)


def _linear(name: str, rows: int, width_in: int, width_out: int, size: Size) -> Iterator[Cost]:
    flops = 2.0 * size.atoms * rows * width_in * width_out
    traffic = WORD * (size.atoms * rows * (width_in + width_out) + width_in * width_out)
    yield Cost(name, "forward", flops, traffic)
    yield Cost(name, "backward", flops, traffic)


def _mix(name: str, rows_in: int, rows_out: int, channels: int, size: Size) -> Iterator[Cost]:
    flops = 2.0 * size.atoms * rows_in * channels**2
    traffic = WORD * size.atoms * (rows_in + rows_out) * channels
    yield Cost(name, "forward", flops, traffic)
    yield Cost(name, "backward", flops, traffic)


def _convolution(name: str, spec: MACESpec, rows_in: int, paths: tuple[CouplingPath, ...], size: Size) -> Iterator[Cost]:
    """Per edge and channel the cubic of each path and the products summed before the coupling, which is paid per atom."""
    channels, components = spec.num_channels, (spec.max_ell + 1) ** 2
    products = sum(map(_num_products_of_path, paths))
    features, nodes = size.edges * (components * WORD + 12), size.atoms * rows_in * channels * WORD
    sums = size.atoms * num_components(tuple(path.l_out for path in paths)) * channels * WORD
    table = size.intervals * len(paths) * CUBIC * channels * WORD
    gathered = size.edges * channels * WORD * (rows_in + CUBIC * len(paths))
    each = size.edges * channels
    yield Cost(name, "forward", 2 * each * (products + 3 * len(paths)), features + nodes + sums + table, gathered)
    backward = 2 * each * (CONVOLUTION_BACKWARD * products + 6 * len(paths))
    yield Cost(name, "backward", backward, features * 2 + nodes * 2 + sums + table, gathered + each * rows_in * WORD * 2)


def _num_products_of_path(path: CouplingPath) -> int:
    """Multiply-adds of w x_i Y_j; Y of degree 0 is one, and a scalar is cheaper as a dot product."""
    if path.l_edge == 0:
        return 2 * path.l_in + 1
    if path.l_out == 0:
        return 2 * path.l_in + 2
    return (2 * path.l_in + 1) * (2 * path.l_edge + 2)


def _contraction(name: str, spec: MACESpec, layer: int, rows_out: int, size: Size) -> Iterator[Cost]:
    """Multiply-adds of the nested form."""
    components = (spec.max_ell + 1) ** 2
    products = _num_products(spec.max_ell, spec.degrees_out(layer), spec.correlation[layer])
    each = size.atoms * spec.num_channels
    traffic = WORD * each * (components + rows_out)
    yield Cost(name, "forward", 2 * each * products, traffic)
    yield Cost(name, "backward", 2 * each * CONTRACTION_BACKWARD * products, traffic + WORD * each * components)


@lru_cache
def _num_products(max_ell: int, degrees: tuple[int, ...], correlation: int) -> int:
    table = contraction_table([[symmetric_coupling(max_ell, degree, nu) for nu in range(1, correlation + 1)] for degree in degrees])
    rows: dict[int, dict[int, tuple[int, ...]]] = {}
    for term, (row, factors) in enumerate(zip(table.rows.tolist(), table.factors.tolist(), strict=True)):
        rows.setdefault(row, {})[term] = tuple(factor for factor in factors if factor < table.num_components)
    return sum(horner(monomials).num_products() for monomials in rows.values())


def limits_table(spec: MACESpec, size: Size, rates: Rates = H200) -> str:
    """Markdown: per op what it must do and the least time that takes."""

    def line(op: str, direction: str, bound: str, *of: Cost) -> tuple[str, ...]:
        sums = (sum(c.flops for c in of) / 1e9, sum(c.bytes for c in of) / 1e6, sum(c.gathered for c in of) / 1e6)
        return op, direction, *map(number, sums), number(sum(c.microseconds(rates) for c in of)), bound

    everything = list(costs(spec, size))
    lines = [line(cost.op, cost.direction, cost.bound(rates), cost) for cost in everything]
    return markdown(("op", "direction", "GFLOP", "MB", "MB gathered", "least us", "bound"), [*lines, line("all", "", "", *everything)])
