"""Source of the kernels of the symmetric contraction: a table becomes a Horner tree, and the tree Triton code.

Everything is text until ``kernels_of`` defines it; symmetric_contraction.py launches the result and says what each kernel is.
"""

import linecache
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from mosso.math.horner import Horner, horner

# Accumulators one program of the coefficient kernel keeps in registers; the table is cut into groups of so many terms.
TERMS_PER_GROUP = 64


# ---- the table as text, and its Horner form --------------------------------------------------------------------------


@dataclass(frozen=True)
class Polynomial:
    """One Horner tree per output row; ``ContractionTable.text`` is what ``parse`` reads."""

    num_components: int
    num_terms: int
    rows: tuple[Horner, ...]

    @staticmethod
    def parse(text: str) -> "Polynomial":
        head, *terms = text.split(";")
        num_components, num_rows = map(int, head.split())
        monomials: list[dict[int, tuple[int, ...]]] = [{} for _ in range(num_rows)]
        for t, term in enumerate(terms):
            row, _, factors = term.partition(":")
            monomials[int(row)][t] = tuple(map(int, factors.split("."))) if factors else ()
        return Polynomial(num_components, len(terms), tuple(horner(of_row) for of_row in monomials))

    def groups(self) -> list[tuple[Horner, ...]]:
        """The trees cut into parts of at most TERMS_PER_GROUP terms, neighbours in the tree kept together."""
        order = [t for tree in self.rows for t in tree.terms()]
        parts = [frozenset(order[i : i + TERMS_PER_GROUP]) for i in range(0, len(order), TERMS_PER_GROUP)]
        return [tuple(tree.keep(part) for tree in self.rows) for part in parts]


# ---- source of the kernels -------------------------------------------------------------------------------------------


class Number(NamedTuple):
    """A variable of the generated code, and the variable with its rate of change along u; None where that is zero."""

    name: str
    rate: str | None = None


class Writer:
    """Lines of one kernel. ``rates``: every number carries its rate along the direction u."""

    def __init__(self, rates: bool, indent: int) -> None:
        self.rates, self.indent = rates, " " * indent
        self.lines: list[str] = []
        self.begun: set[str] = set()

    def line(self, text: str) -> None:
        self.lines.append(self.indent + text)

    def component(self, i: int) -> Number:
        return Number(f"a{i}", f"u{i}" if self.rates else None)

    def add(self, target: str, products: Iterable[str]) -> None:
        """``target`` becomes or grows by products, one per line: each is one fused multiply-add."""
        for product in products:
            self.line(f"{target} {'+=' if target in self.begun else '='} {product}")
            self.begun.add(target)

    def product(self, name: str, x: Number, y: Number) -> Number:
        self.line(f"{name} = {x.name} * {y.name}")
        if not (products := rate_of_product(x, y)):
            return Number(name)
        self.line(f"{name}_r = {' + '.join(products)}")
        return Number(name, f"{name}_r")

    def value(self, node: Horner, adjoint: Number | None, depth: int = 0) -> Number:
        """Value of a tree; with its ``adjoint``, the gradient is added to d0, d1, .. (with rates: its rate alone)."""
        if not node.factors:
            self.line(f"c = tl.load(w + {node.term} * CHANNELS)")
            return Number("c")
        total = Number(f"v{depth}", f"v{depth}_r" if self.rates else None)
        self.begun -= set(total)
        if node.term is not None:
            self.line(f"{total.name} = tl.load(w + {node.term} * CHANNELS)")
            self.begun.add(total.name)
        for i, inner in node.factors:
            x = self.component(i)
            below = self.product(f"h{depth + 1}", x, adjoint) if adjoint and inner.factors else adjoint
            y = self.value(inner, below, depth + 1)
            if adjoint:
                self.add(f"d{i}", rate_of_product(y, adjoint) if self.rates else [f"{y.name} * {adjoint.name}"])
            # At the root, the gradient needs no value, and its rate of change no more than the rate of the value.
            if depth > 0 or not adjoint:
                self.add(total.name, [f"{x.name} * {y.name}"])
            if total.rate:
                self.add(total.rate, rate_of_product(x, y))
        return total

    def leaves(self, node: Horner, adjoint: Number, depth: int = 0) -> None:
        """Adjoints that arrive at the coefficients (with rates: their rates) are added to s0, s1, .."""
        arriving = adjoint.rate if self.rates else adjoint.name
        if node.term is not None and arriving:
            self.line(f"s{node.term} += {arriving}")
        for i, inner in node.factors:
            x = self.component(i)
            if inner.factors:
                self.leaves(inner, self.product(f"h{depth + 1}", x, adjoint), depth + 1)
            else:
                self.begun.add(f"s{inner.term}")
                self.add(f"s{inner.term}", rate_of_product(x, adjoint) if self.rates else [f"{x.name} * {adjoint.name}"])

    def load(self, names: str, pointer: str, numbers: Iterable[int]) -> None:
        for i in numbers:
            self.line(f"{names}{i} = tl.load({pointer} + {i} * CHANNELS)")

    def store(self, pointer: str, i: int, name: str) -> None:
        self.line(f"tl.store({pointer} + {i} * CHANNELS, {name if name in self.begun else '0.0'}, mask=mine)")


def rate_of_product(x: Number, y: Number) -> list[str]:
    """x' y + x y', without the parts that are zero."""
    return [f"{p} * {q}" for p, q in ((x.rate, y.name), (x.name, y.rate)) if p and q]


# Compiling takes seconds: one compilation serves every number of atoms.
_DECORATOR = '@triton.jit(do_not_specialize=["num_atoms", "num_species"])'

# One pass over the body per species that occurs among the atoms of the tile, ascending. Sorted atoms make that one pass for
# nearly all tiles; any other order is as correct. Rows and channels past the end repeat the last one and are not stored, so
# that no load needs a mask. A and g are read inside the loop: products of them read outside would be taken for constants of
# the loop, computed before it and kept, hundreds of registers of them.
_TILE = """
    position = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = position < num_atoms
    atom = tl.minimum(position, num_atoms - 1)
    if ORDERED:
        atom = tl.load(order_ptr + atom)
    species_of = tl.where(inside, tl.load(species_ptr + atom), num_species)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    channel = tl.minimum(column, CHANNELS - 1)[None, :]
    of_components = atom[:, None] * ({components} * CHANNELS) + channel
    of_rows = atom[:, None] * ({rows} * CHANNELS) + channel
    species = tl.min(species_of, 0)
    while species < num_species:
        w = w_ptr + species * ({terms} * CHANNELS) + channel
        mine = (species_of == species)[:, None] & (column < CHANNELS)[None, :]
"""
_CONSTANTS = "ORDERED: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr"


def tile_kernel(name: str, pointers: str, polynomial: Polynomial, body: list[str]) -> str:
    """Source of a kernel over tiles of atoms and channels."""
    sizes = {"components": polynomial.num_components, "rows": len(polynomial.rows), "terms": polynomial.num_terms}
    signature = f"{pointers}, species_ptr, order_ptr, num_atoms, num_species, {_CONSTANTS}"
    last = " " * 8 + "species = tl.min(tl.where(species_of > species, species_of, num_species), 0)"
    head = f"{_DECORATOR}\ndef {name}({signature}):" + _TILE.format(**sizes)
    return head + "\n".join([*body, last])


def forward_source(polynomial: Polynomial) -> str:
    body = Writer(rates=False, indent=8)
    body.load("a", "a_ptr + of_components", range(polynomial.num_components))
    for row, tree in enumerate(polynomial.rows):
        body.line(f"# row {row}")
        body.begun -= {"v0"}
        if tree.factors or tree.term is not None:
            value = body.value(tree, None)
            body.begun.add(value.name)
            body.store("out_ptr + of_rows", row, value.name)
        else:
            body.store("out_ptr + of_rows", row, "0.0")
    return tile_kernel("contraction", "a_ptr, w_ptr, out_ptr", polynomial, body.lines)


def gradient_source(polynomial: Polynomial, rates: bool) -> str:
    """d<g, out>/da, or with ``rates`` its rate along u together with that of out."""
    components = range(polynomial.num_components)
    body = Writer(rates, indent=8)
    body.load("a", "a_ptr + of_components", components)
    if rates:
        body.load("u", "u_ptr + of_components", components)
    body.load("g", "g_ptr + of_rows", range(len(polynomial.rows)))
    for row, tree in enumerate(polynomial.rows):
        body.line(f"# row {row}")
        body.begun -= {"v0_r"}
        if tree.factors:
            body.value(tree, Number(f"g{row}"))
        if rates:
            body.store("out_r_ptr + of_rows", row, "v0_r")
    for i in components:
        body.store("d_ptr + of_components", i, f"d{i}")
    name = "contraction_second" if rates else "contraction_gradient"
    pointers = "u_ptr, g_ptr, a_ptr, w_ptr, out_r_ptr, d_ptr" if rates else "g_ptr, a_ptr, w_ptr, d_ptr"
    return tile_kernel(name, pointers, polynomial, body.lines)


# A program sums one group of terms over one chunk of the sorted atoms, once per species that occurs in the chunk. Pairs
# (chunk, species) ascend together, so chunk + species numbers the partial sums without gaps that matter or collisions.
_CHUNK = """
    first = tl.program_id(0).to(tl.int64) * CHUNK
    position = first + tl.arange(0, CHUNK)
    atom_of = tl.load(order_ptr + tl.minimum(position, num_atoms - 1))
    species_of = tl.where(position < num_atoms, tl.load(species_ptr + atom_of), num_species)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    channel = tl.minimum(column, CHANNELS - 1)
    mine = column < CHANNELS
    species = tl.min(species_of, 0)
    while species < num_species:
        begin = first + tl.sum((species_of < species).to(tl.int64), 0)
        end = first + tl.sum((species_of <= species).to(tl.int64), 0)
        out = partial_ptr + (tl.program_id(0) + species) * ({terms} * CHANNELS) + channel
"""
_CHUNK_CONSTANTS = "CHANNELS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_C: tl.constexpr"


def coefficients_source(polynomial: Polynomial, rates: bool) -> str:
    """Per chunk and species, sums over atoms of g times the monomial of each term, or of the rates of that along u."""
    body = Writer(rates, 12)
    for number, trees in enumerate(polynomial.groups()):
        body.line(f"{'if' if number == 0 else 'elif'} tl.program_id(2) == {number}:")
        body.indent += "    "
        terms = sorted(t for tree in trees for t in tree.terms())
        for t in terms:
            body.line(f"s{t} = tl.zeros([BLOCK_C], dtype=a_ptr.dtype.element_ty)")
        body.line("for n in range(begin, end):")
        body.indent += "    "
        body.line("atom = tl.load(order_ptr + n)")
        body.line(f"a = a_ptr + atom * ({polynomial.num_components} * CHANNELS) + channel")
        body.line(f"g = g_ptr + atom * ({len(polynomial.rows)} * CHANNELS) + channel")
        used = sorted({i for tree in trees for i in components_of(tree)})
        body.load("a", "a", used)
        if rates:
            body.line(f"u = u_ptr + atom * ({polynomial.num_components} * CHANNELS) + channel")
            body.load("u", "u", used)
        body.load("g", "g", [row for row, tree in enumerate(trees) if tree.factors or tree.term is not None])
        for row, tree in enumerate(trees):
            body.leaves(tree, Number(f"g{row}"))
        body.indent = body.indent[4:]
        for t in terms:
            body.line(f"tl.store(out + {t} * CHANNELS, s{t}, mask=mine)")
        body.indent = body.indent[4:]
    name, pointers = ("coefficients_rate", "u_ptr, g_ptr, a_ptr") if rates else ("coefficients", "g_ptr, a_ptr")
    signature = f"{pointers}, partial_ptr, species_ptr, order_ptr, num_atoms, num_species, {_CHUNK_CONSTANTS}"
    last = " " * 8 + "species = tl.min(tl.where(species_of > species, species_of, num_species), 0)"
    head = f"{_DECORATOR}\ndef contraction_{name}({signature}):" + _CHUNK.format(terms=polynomial.num_terms)
    return head + "\n".join([*(line[4:] for line in body.lines), last])


def components_of(tree: Horner) -> set[int]:
    """Components a tree reads."""
    return {i for i, _ in tree.factors}.union(*(components_of(inner) for _, inner in tree.factors))


class Kernels(NamedTuple):
    """The kernels of one table."""

    polynomial: Polynomial
    forward: Any
    gradient: Any
    second: Any
    coefficients: Any
    coefficients_rate: Any


@lru_cache(maxsize=256)
def kernels_of(text: str) -> Kernels:
    """Writes and defines the kernels of a table; each one is compiled by Triton when it is first launched."""
    polynomial = Polynomial.parse(text)
    sources = [
        forward_source(polynomial),
        gradient_source(polynomial, rates=False),
        gradient_source(polynomial, rates=True),
        coefficients_source(polynomial, rates=False),
        coefficients_source(polynomial, rates=True),
    ]
    source = "\n\n\n".join(["import triton\nimport triton.language as tl", *sources]) + "\n"
    # Triton reads the source of a kernel through inspect, which looks here before it looks for a file.
    filename = f"<symmetric_contraction {sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, filename, "exec"), namespace)
    names = ("contraction", "contraction_gradient", "contraction_second", "contraction_coefficients", "contraction_coefficients_rate")
    return Kernels(polynomial, *(namespace[name] for name in names))
