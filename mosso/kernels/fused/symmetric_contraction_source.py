"""Source of the kernels of the symmetric contraction: a table becomes a Horner tree, and the tree Triton code.

Everything is text until ``kernels_of`` defines it; symmetric_contraction.py launches the result and says what each kernel is.
"""

import linecache
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from mosso.kernels.fused.overlap import await_inputs
from mosso.math.horner import Horner, horner

# Accumulators one program of the coefficient kernel keeps in registers; the table is cut into groups of so many terms.
TERMS_PER_GROUP = 64
# Coefficients that one load brings: with 64, the second derivative of the largest usual table no longer fits the registers.
TERMS_PER_LOAD = 32


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
        """The trees cut into parts of TERMS_PER_GROUP consecutive terms; in a table they are neighbours in the tree too."""
        firsts = range(0, self.num_terms, TERMS_PER_GROUP)
        return [tuple(tree.keep(frozenset(range(first, first + TERMS_PER_GROUP))) for tree in self.rows) for first in firsts]


# ---- source of the kernels -------------------------------------------------------------------------------------------


class Number(NamedTuple):
    """A variable of the generated code, and the variable with its rate of change along u; None where that is zero."""

    name: str
    rate: str | None = None


class Writer:
    """Lines of one kernel, whose numbers are (rows, BLOCK_C). ``rates``: every number carries its rate along the direction u.

    Triton (TritonGPUCoalesce) searches, from each load and store, everything that is connected to it by values, and from
    everything it finds again: minutes for a thousand loads among straight-line code. So one load brings many numbers, which
    ``unpack`` takes apart, and loads and addresses of stores are made ``apart``, where the search does not get into the rest.

    A block goes through memory as one axis, in the order rows, numbers, channels, and gets its axes back in registers. Which of
    several axes neighbouring threads follow is for Triton to choose, and 3.6 chooses the first where 3.7 chooses the last; with
    one axis, and one warp on 32 channels, a thread has one channel and all numbers of it. Otherwise taking apart goes through
    shared memory and registers spill.
    """

    def __init__(self, polynomial: Polynomial, rates: bool, rows: str, indent: int) -> None:
        self.polynomial, self.rates, self.rows, self.indent = polynomial, rates, rows, " " * indent
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
            return Number(self.coefficient(node.term))
        total = Number(f"v{depth}", f"v{depth}_r" if self.rates else None)
        self.begun -= set(total)
        if node.term is not None:
            self.line(f"{total.name} = {self.coefficient(node.term)}")
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

    def coefficient(self, term: int | None) -> str:
        """Name of a coefficient; the first one needed of a block has the block loaded."""
        assert term is not None
        first = term - term % TERMS_PER_LOAD
        names = numbered("c", min(first + TERMS_PER_LOAD, self.polynomial.num_terms), first)
        if names[0] not in self.begun:
            self.load(names, "w_ptr", "row_of_w", self.polynomial.num_terms, first, rows="1")
        return f"c{term}"

    def load(self, names: list[str], pointer: str, row: str, width: int, first: int = 0, rows: str | None = None) -> None:
        """Numbers ``first`` and following of the rows of an array (.., width, C); ``row`` is a variable of shape (rows,)."""
        rows, size = rows or self.rows, padded(len(names))
        lines = [
            f"k = tl.minimum({first} + tl.arange(0, {size}), {first + len(names) - 1})[None, :, None]",
            f"from_ptr = {pointer} + {row}[:, None] * ({width} * CHANNELS) + channel",
            "b = tl.load(tl.ravel(from_ptr[:, None, :] + k * CHANNELS))",
        ]
        self.apart({"b": f"[{rows} * {size} * BLOCK_C], dtype=a_ptr.dtype.element_ty"}, lines)
        self.line(f"b = tl.trans(tl.reshape(b, [{rows}, {size}, BLOCK_C]), 0, 2, 1)")
        self.unpack("b", names, rows, size)
        self.begun.update(names)

    def store(self, names: list[str], pointer: str, row: str, width: int, mine: str, first: int = 0) -> None:
        """Numbers ``first`` and following of the rows of an array (.., width, C) that are ``mine``; zeros for those not begun."""
        size = padded(len(names))
        self.line(f"zero = tl.zeros([{self.rows}, BLOCK_C], dtype=a_ptr.dtype.element_ty)")
        self.pack("b", [name if name in self.begun else "zero" for name in names] + ["zero"] * (size - len(names)))
        lines = [
            f"k = tl.arange(0, {size})[None, :, None]",
            f"place = tl.ravel(({row}[:, None] * ({width} * CHANNELS) + channel)[:, None, :] + (k + {first}) * CHANNELS)",
            f"mask = tl.ravel(({mine})[:, None, :] & (k < {len(names)}))",
        ]
        shape = f"[{self.rows} * {size} * BLOCK_C]"
        self.apart({"place": f"{shape}, dtype=tl.int64", "mask": f"{shape}, dtype=tl.int1"}, lines)
        self.line(f"tl.store({pointer} + place, tl.ravel(tl.trans(b, 0, 2, 1)), mask=mask)")

    def apart(self, results: dict[str, str], lines: list[str]) -> None:
        """Lines that compute ``results`` (name -> shape and dtype) in a block of their own.

        The block always runs. Triton does not know that; LLVM does and leaves no branch. Its lines must share no value with the
        rest but the rows, species and columns of the tile, constants included: what is equal becomes one value.
        """
        for name, zeros in results.items():
            self.line(f"{name} = tl.zeros({zeros})")
        self.line("if tl.num_programs(0) > 0:")
        for text in lines:
            self.line(f"    {text}")

    def unpack(self, block: str, names: list[str], rows: str, size: int) -> None:
        """Takes (rows, BLOCK_C, size) apart into named numbers, which costs no instructions: they stay in their registers."""
        if size == 2:
            self.line(f"{names[0]}, {names[1] if len(names) > 1 else '_'} = tl.split({block})")
            return
        self.line(f"{block}0, {block}1 = tl.split(tl.reshape({block}, [{rows}, BLOCK_C, {size // 2}, 2]))")
        for half in range(min(2, len(names))):
            self.unpack(f"{block}{half}", names[half::2], rows, size // 2)

    def pack(self, block: str, names: list[str]) -> None:
        """The inverse of ``unpack``."""
        if len(names) == 2:
            self.line(f"{block} = tl.join({names[0]}, {names[1]})")
            return
        for half in range(2):
            self.pack(f"{block}{half}", names[half::2])
        self.line(f"{block} = tl.reshape(tl.join({block}0, {block}1), [{self.rows}, BLOCK_C, {len(names)}])")


def padded(count: int) -> int:
    """Length of an axis that holds so many numbers: the next power of two, no less than what can be split."""
    return max(2, 1 << (count - 1).bit_length())


def numbered(name: str, end: int, first: int = 0) -> list[str]:
    return [f"{name}{i}" for i in range(first, end)]


def rate_of_product(x: Number, y: Number) -> list[str]:
    """x' y + x y', without the parts that are zero."""
    return [f"{p} * {q}" for p, q in ((x.rate, y.name), (x.name, y.rate)) if p and q]


# Compiling takes seconds: one compilation serves every number of atoms.
_DECORATOR = '@triton.jit(do_not_specialize=["num_atoms"])'

# One pass over the body per species that occurs among the atoms of the tile, ascending. Sorted atoms make that one pass for
# nearly all tiles; any other order is as correct. Rows and channels past the end repeat the last one and are not stored, so
# that no load needs a mask. A and g are read inside the loop: products of them read outside would be taken for constants of
# the loop, computed before it and kept, hundreds of registers of them. The loop begins with a constant, because all that
# begins a loop is connected to all of its lines (see ``Writer``).
_TILE = """
    await_inputs(OVERLAPS)
    position = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    atom = tl.minimum(position, num_atoms - 1)
    if ORDERED:
        atom = tl.load(order_ptr + atom)
    species_of = tl.where(position < num_atoms, tl.load(species_ptr + atom), -1)
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    channel = tl.minimum(column, CHANNELS - 1)[None, :]
    last = tl.max(species_of, 0)
    species = tl.full([], -1, tl.int64)
    while species < last:
        species = tl.min(tl.where(species_of > species, species_of, last), 0)
        row_of_w = tl.zeros([1], dtype=tl.int64) + species
"""
_ZERO = "tl.zeros([BLOCK_N, BLOCK_C], dtype=a_ptr.dtype.element_ty)"
_MINE = "(species_of == species)[:, None] & (column < CHANNELS)[None, :]"
_CONSTANTS = "ORDERED: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, OVERLAPS: tl.constexpr = False"


def tile_kernel(name: str, pointers: str, body: Writer) -> str:
    """Source of a kernel over tiles of atoms and channels."""
    signature = f"{pointers}, species_ptr, order_ptr, num_atoms, {_CONSTANTS}"
    return "\n".join([f"{_DECORATOR}\ndef {name}({signature}):{_TILE}", *body.lines])


def forward_source(polynomial: Polynomial) -> str:
    components, rows = polynomial.num_components, len(polynomial.rows)
    body = Writer(polynomial, rates=False, rows="BLOCK_N", indent=8)
    body.load(numbered("a", components), "a_ptr", "atom", components)
    for row, tree in enumerate(polynomial.rows):
        body.line(f"# row {row}")
        if tree.factors or tree.term is not None:
            value = body.value(tree, None).name
            # A constant is the same for all rows and has to become their shape.
            body.add(f"o{row}", [value if tree.factors else f"{value} + {_ZERO}"])
    body.store(numbered("o", rows), "out_ptr", "atom", rows, _MINE)
    return tile_kernel("contraction", "a_ptr, w_ptr, out_ptr", body)


def gradient_source(polynomial: Polynomial, rates: bool) -> str:
    """d<g, out>/da, or with ``rates`` its rate along u together with that of out."""
    components, rows = polynomial.num_components, len(polynomial.rows)
    body = Writer(polynomial, rates, rows="BLOCK_N", indent=8)
    body.load(numbered("a", components), "a_ptr", "atom", components)
    if rates:
        body.load(numbered("u", components), "u_ptr", "atom", components)
    body.load(numbered("g", rows), "g_ptr", "atom", rows)
    for row, tree in enumerate(polynomial.rows):
        body.line(f"# row {row}")
        if tree.factors:
            value = body.value(tree, Number(f"g{row}"))
            if value.rate:
                body.add(f"o{row}", [value.rate])
    if rates:
        body.store(numbered("o", rows), "out_r_ptr", "atom", rows, _MINE)
    body.store(numbered("d", components), "d_ptr", "atom", components, _MINE)
    name = "contraction_second" if rates else "contraction_gradient"
    pointers = "u_ptr, g_ptr, a_ptr, w_ptr, out_r_ptr, d_ptr" if rates else "g_ptr, a_ptr, w_ptr, d_ptr"
    return tile_kernel(name, pointers, body)


# A program sums one group of terms over one chunk of the sorted atoms, once per species that occurs in the chunk. Pairs
# (chunk, species) ascend together, so chunk + species numbers the partial sums without gaps that matter or collisions.
_CHUNK = """
    await_inputs(OVERLAPS)
    first = tl.program_id(0).to(tl.int64) * CHUNK
    position = first + tl.arange(0, CHUNK)
    species_of = tl.load(species_ptr + tl.load(order_ptr + tl.minimum(position, num_atoms - 1)))
    column = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    channel = tl.minimum(column, CHANNELS - 1)[None, :]
    last = tl.max(species_of, 0)
    species = tl.full([], -1, tl.int64)
    while species < last:
        species = tl.min(tl.where(species_of > species, species_of, last), 0)
        row_of_sum = tl.zeros([1], dtype=tl.int64) + tl.program_id(0) + species
        begin = first + tl.sum((species_of < species).to(tl.int64), 0)
        end = first + tl.sum(((position < num_atoms) & (species_of <= species)).to(tl.int64), 0)
"""
_CHUNK_CONSTANTS = "CHANNELS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_C: tl.constexpr, OVERLAPS: tl.constexpr = False"


def coefficients_source(polynomial: Polynomial, rates: bool) -> str:
    """Per chunk and species, sums over atoms of g times the monomial of each term, or of the rates of that along u."""
    body = Writer(polynomial, rates, rows="1", indent=8)
    for number, trees in enumerate(polynomial.groups()):
        body.line(f"{'if' if number == 0 else 'elif'} tl.program_id(2) == {number}:")
        body.indent = " " * 12
        first = number * TERMS_PER_GROUP
        sums = numbered("s", min(first + TERMS_PER_GROUP, polynomial.num_terms), first)
        for name in sums:
            body.line(f"{name} = tl.zeros([1, BLOCK_C], dtype=a_ptr.dtype.element_ty)")
        body.line("n = begin")
        body.line("while n < end:")
        body.indent = " " * 16
        body.line("atom = tl.load(order_ptr + n + tl.arange(0, 1))")
        for name in "au" if rates else "a":
            body.load(numbered(name, polynomial.num_components), f"{name}_ptr", "atom", polynomial.num_components)
        body.load(numbered("g", len(trees)), "g_ptr", "atom", len(trees))
        for row, tree in enumerate(trees):
            body.leaves(tree, Number(f"g{row}"))
        body.line("n += 1")
        body.indent = " " * 12
        body.begun.update(sums)
        body.store(sums, "partial_ptr", "row_of_sum", polynomial.num_terms, "(column < CHANNELS)[None, :]", first)
        body.indent = " " * 8
    name, pointers = ("coefficients_rate", "u_ptr, g_ptr, a_ptr") if rates else ("coefficients", "g_ptr, a_ptr")
    signature = f"{pointers}, partial_ptr, species_ptr, order_ptr, num_atoms, {_CHUNK_CONSTANTS}"
    return "\n".join([f"{_DECORATOR}\ndef contraction_{name}({signature}):{_CHUNK}", *body.lines])


class Kernels:
    """The kernels of one table. Each is written when it is first asked for, as most runs need the first two alone, and compiled by
    Triton when it is first launched."""

    def __init__(self, polynomial: Polynomial) -> None:
        self.polynomial = polynomial

    @cached_property
    def forward(self) -> Any:
        return _defined("contraction", forward_source(self.polynomial))

    @cached_property
    def gradient(self) -> Any:
        return _defined("contraction_gradient", gradient_source(self.polynomial, rates=False))

    @cached_property
    def second(self) -> Any:
        return _defined("contraction_second", gradient_source(self.polynomial, rates=True))

    @cached_property
    def coefficients(self) -> Any:
        return _defined("contraction_coefficients", coefficients_source(self.polynomial, rates=False))

    @cached_property
    def coefficients_rate(self) -> Any:
        return _defined("contraction_coefficients_rate", coefficients_source(self.polynomial, rates=True))


def _defined(name: str, source: str) -> Any:
    """The kernel ``name`` that ``source`` defines."""
    source = f"import triton\nimport triton.language as tl\n\n\n{source}\n"
    # Triton reads the source of a kernel through inspect, which looks here before it looks for a file.
    filename = f"<symmetric_contraction {sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace: dict[str, Any] = {"await_inputs": await_inputs, "__name__": __name__}
    exec(compile(source, filename, "exec"), namespace)
    return namespace[name]


@lru_cache(maxsize=256)
def kernels_of(text: str) -> Kernels:
    """The kernels of the table that ``text`` describes."""
    return Kernels(Polynomial.parse(text))
