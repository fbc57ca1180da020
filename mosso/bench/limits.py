"""The least time each op of a MACE evaluation can take: arithmetic and bytes counted from shapes, against what the device can do.

Arithmetic is that of the generated kernels, product by product, and of the matrix products. Bytes are compulsory traffic to memory:
every input read once, every output written once. What an op gathers again and again is counted apart, because it comes from the cache
as long as it fits. Energy and forces, of the tabulated form or of the stock one, whose radial networks run on every edge. Readouts, pair
repulsion, densities and sums over atoms are left out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from mosso.bench.forms import tabulated
from mosso.bench.markdown import markdown, number
from mosso.bench.rates import H200, Rates
from mosso.data.structure import Batch, Structure
from mosso.engine.potential import Potential
from mosso.graph.graph import Graph
from mosso.kernels import SpeciesGroups
from mosso.math.coupling import CouplingPath, contraction_table, convolution_paths, symmetric_coupling
from mosso.math.horner import Horner, horner
from mosso.math.irreps import num_components
from mosso.models.base import species_index
from mosso.models.mace import MACE, MACESpec
from mosso.models.tabulated_mace import MAX_MOMENTS, TabulatedMACE, degrees_asked

CUBIC = 4  # coefficients of a cubic


@dataclass(frozen=True)
class Size:
    """What the costs of one evaluation depend on.

    Attributes:
        atoms, edges, species: how many there are; of the species those present.
        intervals: of the tables; None for the stock form.
        word: bytes of a number.
        coarse_intervals, coarse_word: of the tables that convolutions take their values from.
    """

    atoms: int
    edges: int
    species: int
    intervals: int | None
    word: int = 4
    coarse_intervals: int = 256
    coarse_word: int = 4


def size_of(potential: Potential, batch: Batch, graph: Graph) -> Size:
    """Of an evaluation by the form that ``potential`` takes for these atoms."""
    present = SpeciesGroups.of(species_index(batch.numbers_N, potential.species)).present
    edges = int(graph.receiver_offsets[-1])  # a list made on the device tells it nowhere else
    form, size = potential.evaluator, Size(batch.num_atoms, edges, len(present), None, potential.precision.compute.itemsize)
    if not isinstance(form, TabulatedMACE) or form.for_species(present) is potential.model:
        return size
    radial = form.tables(present).radial
    coarse = radial.num_intervals // radial.ratio
    return replace(size, intervals=radial.num_intervals, coarse_intervals=coarse, coarse_word=potential.precision.table.itemsize)


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
        return 1e6 * max(self.flops / rates.arithmetic, self.bytes / rates.memory)

    def bound(self, rates: Rates) -> str:
        return "arithmetic" if self.flops / rates.arithmetic > self.bytes / rates.memory else "memory"


def costs(spec: MACESpec, size: Size) -> Iterator[Cost]:
    """Every op of one evaluation of energy and forces."""
    components, degrees, channels = (spec.max_ell + 1) ** 2, spec.max_ell + 1, spec.num_channels
    tabulated = size.intervals is not None
    yield from _edge_features(components + (0 if tabulated else spec.num_bessel), size)
    for layer in range(spec.num_layers):
        degrees_in, degrees_out = spec.degrees_in(layer), spec.degrees_out(layer)
        rows_in, rows_out = num_components(degrees_in), num_components(degrees_out)
        paths = convolution_paths(degrees_in, spec.max_ell)
        known = tabulated and layer == 0  # features that depend on the species alone are multiplied out at load
        if known and size.species <= MAX_MOMENTS:
            yield from _radial_moments(components, spec.radial_mlp[-1], size)
            yield from _linear("first mix", components, (size.species * spec.radial_mlp[-1], channels), degrees, size)
        else:
            if not known:
                up = "folded up" if tabulated and layer == 1 else "up"
                yield from _linear(f"{up} {layer}", rows_in, (channels, channels), len(degrees_in), size)
            if not tabulated:
                yield from _radial_network(f"radial network {layer}", spec, len(paths), size)
            yield from _convolution(f"convolution {layer}", spec, rows_in, paths, size)
            rows = num_components(tuple(path.l_out for path in paths))
            yield from _linear(f"mix {layer}", rows, (channels, channels), len(paths), size, rows_out=components)
        if not spec.interactions[layer].endswith("Residual"):
            yield from _linear(f"by species {layer}", components, (channels, channels), degrees * size.species, size)
        elif not known:
            kept = tuple(d for d in degrees_in if d in degrees_out)
            yield from _linear(f"residual {layer}", num_components(kept), (channels, channels), len(kept) * size.species, size)
        yield from _contraction(f"contraction {layer}", spec, layer, rows_out, size)
        mixed = degrees_asked(spec) if known else degrees_out
        yield from _linear(f"product {layer}", num_components(mixed), (channels, channels), len(mixed), size)


def _edge_features(numbers: int, size: Size) -> Iterator[Cost]:
    """About ten operations for each number made of an edge."""
    written = size.edges * (numbers * size.word + 4)
    yield Cost("edge features", "forward", 10 * numbers * size.edges, 24 * size.edges + written)
    yield Cost("edge features", "backward", 20 * numbers * size.edges, 48 * size.edges + written)


def _radial_moments(components: int, functions: int, size: Size) -> Iterator[Cost]:
    assert size.intervals is not None
    word = size.word
    edges, moments = size.edges * (components * word + 12), size.atoms * components * size.species * functions * word
    table = size.intervals * CUBIC * functions * word
    gathered = size.edges * CUBIC * functions * word
    outer = 2 * components * functions
    yield Cost("radial moments", "forward", size.edges * (outer + 6 * functions), edges + moments + table, gathered)
    backward = size.edges * (2 * outer + 12 * functions)
    yield Cost("radial moments", "backward", backward, edges + moments + table + size.edges * components * word, gathered)


def _radial_network(name: str, spec: MACESpec, num_paths: int, size: Size) -> Iterator[Cost]:
    """From the radial basis to the weights of all paths; what lies between need not leave the device's caches."""
    widths = (spec.num_bessel, *spec.radial_mlp, num_paths * spec.num_channels)
    weights = sum(a * b for a, b in zip(widths, widths[1:], strict=False))
    flops = 2.0 * size.edges * weights
    traffic = size.word * (size.edges * (widths[0] + widths[-1]) + weights)
    yield Cost(name, "forward", flops, traffic)
    yield Cost(name, "backward", flops, traffic + size.word * size.edges * widths[0])


def _linear(name: str, rows: int, widths: tuple[int, int], num_matrices: int, size: Size, rows_out: int | None = None) -> Iterator[Cost]:
    """Every row of an atom times one of the matrices; ``rows_out`` where several rows are summed to one."""
    flops = 2.0 * size.atoms * rows * widths[0] * widths[1]
    numbers = size.atoms * (rows * widths[0] + (rows_out or rows) * widths[1]) + num_matrices * widths[0] * widths[1]
    yield Cost(name, "forward", flops, size.word * numbers)
    yield Cost(name, "backward", flops, size.word * numbers)


def _convolution(name: str, spec: MACESpec, rows_in: int, paths: tuple[CouplingPath, ...], size: Size) -> Iterator[Cost]:
    """Per edge and channel the products summed before the coupling, which is paid per atom; and the weight of each path, which is a
    cubic from the table or read."""
    channels, components, word = spec.num_channels, (spec.max_ell + 1) ** 2, size.word
    tabulated = size.intervals is not None
    forward, backward = (sum(counts) for counts in zip(*(_products_of_path(path, tabulated) for path in paths), strict=True))
    features, nodes = size.edges * (components * word + 12), size.atoms * rows_in * channels * word
    sums = size.atoms * num_components(tuple(path.l_out for path in paths)) * channels * word
    each = size.edges * channels
    gathered = each * word * rows_in
    if size.intervals is None:
        weights = each * len(paths) * word
        tables, coefficients, gradient = (weights, weights), (0, 0), weights
    else:
        row, gradient = CUBIC * len(paths) * channels, 0
        tables = (size.coarse_intervals * row * size.coarse_word, size.intervals * row * word)
        coefficients = (size.edges * row * size.coarse_word, size.edges * row * word)
    yield Cost(name, "forward", 2 * each * forward, features + nodes + sums + tables[0], gathered + coefficients[0])
    traffic = features * 2 + nodes * 2 + sums + tables[1] + gradient
    yield Cost(name, "backward", 2 * each * backward, traffic, gathered + coefficients[1] + each * rows_in * word * 2)


def _products_of_path(path: CouplingPath, tabulated: bool) -> tuple[int, int]:
    """Multiply-adds of w x_i Y_j forward, and of its derivatives by x, Y and w. In the form with tables Y of degree 0 is known to be one,
    and a cubic gives w forward, backward w and its derivative."""
    components, pairs = 2 * path.l_in + 1, int(path.coupling.any(axis=2).sum())
    cubic = CUBIC - 1 if tabulated else 0
    if tabulated and path.l_edge == 0:
        return components + cubic, 2 * components + 2 * cubic
    return components + pairs + cubic, 3 * components + 2 * pairs + 2 * cubic


def _contraction(name: str, spec: MACESpec, layer: int, rows_out: int, size: Size) -> Iterator[Cost]:
    """Multiply-adds of the nested form."""
    components = (spec.max_ell + 1) ** 2
    polynomials, num_terms = _polynomials(spec.max_ell, spec.degrees_out(layer), spec.correlation[layer])
    forward = sum(polynomial.num_products() for polynomial in polynomials)
    # Both factors of every product get a gradient but for coefficients, and inner sums are made again.
    backward = sum(2 * p.num_products() + _num_inner(p) - len(p.factors) for p in polynomials)
    each = size.atoms * spec.num_channels
    traffic = size.word * (each * (components + rows_out) + size.species * num_terms * spec.num_channels)
    yield Cost(name, "forward", 2 * each * forward, traffic)
    yield Cost(name, "backward", 2 * each * backward, traffic + size.word * each * components)


@lru_cache
def _polynomials(max_ell: int, degrees: tuple[int, ...], correlation: int) -> tuple[list[Horner], int]:
    """One for each row of the output, and the number of all their coefficients."""
    table = contraction_table([[symmetric_coupling(max_ell, degree, nu) for nu in range(1, correlation + 1)] for degree in degrees])
    rows: dict[int, dict[int, tuple[int, ...]]] = {}
    for term, (row, factors) in enumerate(zip(table.rows.tolist(), table.factors.tolist(), strict=True)):
        rows.setdefault(row, {})[term] = tuple(factor for factor in factors if factor < table.num_components)
    return [horner(monomials) for monomials in rows.values()], len(table.rows)


def _num_inner(polynomial: Horner) -> int:
    """Factors of a nested form that multiply a sum rather than a coefficient."""
    return sum(bool(inner.factors) + _num_inner(inner) for _, inner in polynomial.factors)


def limits_table(spec: MACESpec, size: Size, rates: Rates = H200) -> str:
    """Markdown: per op what it must do and the least time that takes."""

    def line(op: str, direction: str, bound: str, *of: Cost) -> tuple[str, ...]:
        sums = (sum(c.flops for c in of) / 1e9, sum(c.bytes for c in of) / 1e6, sum(c.gathered for c in of) / 1e6)
        return op, direction, *map(number, sums), number(sum(c.microseconds(rates) for c in of)), bound

    everything = list(costs(spec, size))
    lines = [line(cost.op, cost.direction, cost.bound(rates), cost) for cost in everything]
    return markdown(("op", "direction", "GFLOP", "MB", "MB gathered", "least us", "bound"), [*lines, line("all", "", "", *everything)])


def limits_of(potential: Potential, structures: list[Structure]) -> str:
    """Markdown: the limits of energy and forces of structures, by the form made for simulations.

    Raises:
        ValueError: an architecture whose work is not counted.
    """
    if not isinstance(potential.model, MACE):
        raise ValueError("Only the work of MACE is counted: take a MACE, or leave out --limits.")
    batch = potential.batch(structures)
    size = size_of(tabulated(potential), batch, potential.graph(batch))
    return f"{size}\n\n{limits_table(potential.model.spec, size)}"
