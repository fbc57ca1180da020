"""Triton source of the edge convolutions, written out for one table of coupling paths.

The indices of a coupling table are known before the kernel is compiled, so every product becomes one line of
straight code on registers: no loop over paths, no table in memory, nothing multiplied by zero. ``source`` shows
what runs; tracebacks and profilers find the same lines.

Two ops share it and differ in where the radial weights of an edge come from: ``STORED`` reads them (edge_convolution),
``Tabulated`` evaluates cubics whose coefficients stand in a table (tabulated_convolution).
"""

import linecache
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import triton
import triton.language as tl

from mosso.kernels.fused import FINGERPRINT
from mosso.kernels.fused.overlap import await_inputs
from mosso.kernels.fused.warp_sum import warp_sum_asm
from mosso.math.coupling import CouplingPath
from mosso.math.irreps import degree_slices, num_components

# Above so many sums per channel the registers of one thread run out; paths beyond are coupled edge by edge.
MAX_HOISTED = {4: 128, 8: 80}


@dataclass(frozen=True)
class Term:
    """One entry of a coupling: value * x[i] * Y[j] -> out[k], components counted over all degrees (k over all paths)."""

    i: int
    j: int
    k: int
    value: float


@dataclass(frozen=True)
class PathTable:
    """What generated code needs to know of the paths; kept as text where an op carries it.

    Attributes:
        degrees_in: degrees of x, ascending.
        num_edge: components M of the harmonics; those no path reads get a zero gradient.
        paths: in the order of the weights.
    """

    degrees_in: tuple[int, ...]
    num_edge: int
    paths: tuple[CouplingPath, ...]

    @staticmethod
    def describe(degrees_in: tuple[int, ...], paths: Sequence[CouplingPath]) -> str:
        """Degrees and paths as text, put together in a way that torch.compile can follow."""
        degrees = ",".join([str(degree) for degree in degrees_in])
        return ";".join([FINGERPRINT, degrees, *[path.text for path in paths]])

    @staticmethod
    @lru_cache(maxsize=256)
    def parse(text: str, num_edge: int) -> "PathTable":
        _, degrees, *paths = text.split(";")
        return PathTable(tuple(int(degree) for degree in degrees.split(",")), num_edge, tuple(CouplingPath.parse(path) for path in paths))

    @property
    def num_in(self) -> int:
        return num_components(self.degrees_in)

    @property
    def num_out(self) -> int:
        return sum(2 * path.l_out + 1 for path in self.paths)

    @cached_property
    def terms(self) -> tuple[tuple[Term, ...], ...]:
        """Per path its non-zero entries."""
        starts_in = {d: s.start for d, s in zip(self.degrees_in, degree_slices(self.degrees_in), strict=True)}
        terms, start_out = [], 0
        for path in self.paths:
            start_in, start_edge, coupling = starts_in[path.l_in], path.l_edge**2, path.coupling
            entries = np.argwhere(coupling != 0.0).tolist()
            # 15 digits, so that entries which are equal but for rounding are equal in the code too
            values = [round(float(coupling[i, j, k]), 15) for i, j, k in entries]
            terms.append(
                tuple(Term(start_in + i, start_edge + j, start_out + k, value) for (i, j, k), value in zip(entries, values, strict=True))
            )
            start_out += 2 * path.l_out + 1
        return tuple(terms)

    @cached_property
    def num_pairs(self) -> list[int]:
        """Per path how many products of a component of x and a harmonic it couples."""
        return [len({(t.i, t.j) for t in terms}) for terms in self.terms]

    def hoisted(self, max_sums: int) -> frozenset[int]:
        """Paths whose coupling is taken out of the loop over edges: the cheapest in registers, while ``max_sums`` lasts.

        Those that cost no register always are, among them every path with the harmonic of degree 0.
        """
        growth = [count - (2 * path.l_out + 1) for count, path in zip(self.num_pairs, self.paths, strict=True)]
        total, chosen = self.num_out, set()
        for p in sorted(range(len(growth)), key=lambda p: growth[p]):
            if growth[p] == 0 or total + growth[p] <= max_sums:
                total += growth[p]
                chosen.add(p)
        return frozenset(chosen)


@triton.jit
def quarters(block):  # type: ignore[no-untyped-def]
    """The four columns of a (BLOCK, 4) block, which every thread holds side by side."""
    even, odd = tl.split(tl.reshape(block, (block.shape[0], 2, 2)))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    return first, second, third, fourth


class _Writer:
    """Lines of Python with their indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, line: str = "") -> None:
        self.lines.append("    " * self.depth + line if line else "")

    def sums(self, targets: dict[str, list[str]]) -> None:
        """``target = a + b + ...`` for every target."""
        for target, parts in targets.items():
            self(f"{target} = {' + '.join(parts)}")

    def additions(self, targets: dict[str, list[str]]) -> None:
        """``target = target + a + b + ...``, from left to right: a product and its addition are one instruction then."""
        for target, parts in targets.items():
            self(f"{target} = {' + '.join([target, *parts])}")

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def _grouped(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for target, part in pairs:
        groups.setdefault(target, []).append(part)
    return groups


def _times(value: float, name: str) -> str:
    return name if value == 1.0 else f"{value!r} * {name}"


def _row(u: int) -> str:
    """Edge u of a step."""
    return f"tl.cast(edge + {u}, tl.int64)"


class Weights:
    """Where the radial weights w_p of an edge come from; this one reads them, (E, P, C), and stores their gradient.

    Attributes:
        op: the op, which names its kernels.
        scalars: argument with the (E, J) real numbers of the edges.
        storage: argument with the weights, or what they are made of.
        indices: integers of an edge that addresses wait for, each with the argument that holds it.
        unit_harmonic: the harmonic of degree 0 is one; its column of ``scalars`` holds a variable t of the weights.
        backward: arguments of the backward kernel that belong to this source.
        num_rows: edges that one launch of the backward kernel writes gradients of.
        flags: what the backward kernel may be asked for.
        need_u: when it needs u_i, and so dw_p = sum_i x_i u_i.
        in_fours: whether every thread reads four numbers of an edge at a time.
        ratio: rows that edges name for one that is read.
    """

    op = "edge_convolution"
    scalars = "harmonics"
    storage = "weights"
    indices: ClassVar[dict[str, str]] = {"sender": "senders"}
    unit_harmonic = False
    backward: tuple[str, ...] = ("grad_weights", "num_edges")
    num_rows = "num_edges"
    flags: tuple[str, ...] = ("NEED_X", "NEED_Y", "NEED_W")
    need_u = "NEED_X or NEED_W"
    in_fours = False
    ratio = 1

    @property
    def arguments(self) -> str:
        """What kernels read of the edges."""
        return ", ".join([self.scalars, self.storage, *self.indices.values(), "receiver_offsets"])

    def scalar_names(self, table: PathTable) -> list[str]:
        return ["t" if self.unit_harmonic else "y0", *[f"y{j}" for j in range(1, table.num_edge)]]

    def harmonic(self, name: str, j: int, u: int) -> str:
        """name * Y_j."""
        return name if self.unit_harmonic and j == 0 else f"{name} * y{j}_{u}"

    def numbers(self, table: PathTable) -> list[str]:
        """What an edge reads per channel, one row of channels after the other from ``address`` on."""
        return [f"w{p}" for p in range(len(table.paths))]

    def address(self, table: PathTable, edge: str, u: int) -> str:
        return f"weights + {edge} * ({len(table.paths)} * CHANNELS) + read"

    def load_numbers(self, write: "_Writer", table: PathTable, prefix: str, u: int) -> None:
        """Lines that load what ``numbers`` names, from ``w_at`` on."""
        for place, name in enumerate(self.numbers(table)):
            write(f"{prefix}{name}_{u} = tl.load(w_at + {place} * CHANNELS)")

    def prepare(self, write: _Writer, u: int) -> None:
        """Lines before the weights of an edge are evaluated."""

    def evaluate(self, write: _Writer, p: int, u: int) -> None:
        """Lines that make w_p of what was loaded."""

    def edge(self, place: str, u: int) -> str:
        """Number of the edge at a place of the loop, the u-th of its step."""
        return f"tl.cast({place}, tl.int64)"

    def noted(self, u: int) -> dict[str, str]:
        """What is needed of an edge after the indices of the next one have been read: names and what they stand for."""
        return {}

    def claim(self, write: _Writer, u: int) -> list[str]:
        """Lines that tell whether this launch writes the gradients of an edge; the conditions."""
        return []

    def own_row(self, u: int) -> str:
        """Where the gradients of an edge go."""
        return _row(u)

    def gradient(self, write: _Writer, table: PathTable, p: int, u: int, dw: str, live: str) -> None:
        """Lines that take in dw_p."""
        write("if NEED_W:")
        write(f"    at = grad_weights + {_row(u)} * ({len(table.paths)} * CHANNELS) + channel")
        write(f"    tl.store(at + {p} * CHANNELS, {dw}, mask={live})")


@dataclass(frozen=True)
class Tabulated(Weights):
    """w_p = sum_q c_q t^q, where the coefficients are the row of a table (R, P, C, 4) that the edge names.
    With a ``ratio``, so many of the rows that edges name are one of the table, whose t runs through all of them.

    Edges of a receiver are visited in a given order: ``senders`` and ``rows`` come in it, ``order`` says which edge it is.
    dw_p is not stored: dt = sum over p and channels of dw_p * dw_p/dt takes the place of dY_0. One launch of the backward
    kernel is for the edges from ``first_edge`` to ``last_edge``; row 0 of what it writes belongs to the first of them. Where
    these are a part of all (``chunked``), ``receivers`` points at the first and the last atom that they end at, and programs
    take one after the other of those; else there is a program for every atom.
    """

    op = "tabulated_convolution"
    scalars = "features"
    storage = "table"
    indices: ClassVar[dict[str, str]] = {"sender": "senders", "row": "rows", "visited": "order"}
    unit_harmonic = True
    backward = ("first_edge", "last_edge")
    num_rows = "(last_edge - first_edge)"
    flags = ("NEED_X", "NEED_Y")
    need_u = "NEED_X or NEED_Y"
    in_fours = True
    ratio: int = 1

    def numbers(self, table: PathTable) -> list[str]:
        return [f"c{p}_{q}" for p in range(len(table.paths)) for q in range(4)]

    def address(self, table: PathTable, edge: str, u: int) -> str:
        row = f"row_{u}" if self.ratio == 1 else f"(row_{u}.to(tl.uint32) // {self.ratio})"
        return f"table + {row}.to(tl.int64) * ({4 * len(table.paths)} * CHANNELS) + (4 * read[:, None] + four)"

    def load_numbers(self, write: "_Writer", table: PathTable, prefix: str, u: int) -> None:
        for p in range(len(table.paths)):
            names = ", ".join(f"{prefix}c{p}_{q}_{u}" for q in range(4))
            write(f"{names} = quarters(tl.load(w_at + {4 * p} * CHANNELS).to(x.dtype.element_ty))")

    def prepare(self, write: _Writer, u: int) -> None:
        if self.ratio > 1:
            write(f"t_{u} = (among_{u} + t_{u}) * {1.0 / self.ratio!r}")

    def evaluate(self, write: _Writer, p: int, u: int) -> None:
        c0, c1, c2, c3 = (f"c{p}_{q}_{u}" for q in range(4))
        write(f"w{p}_{u} = {c0} + t_{u} * ({c1} + t_{u} * ({c2} + t_{u} * {c3}))")

    def edge(self, place: str, u: int) -> str:
        return f"visited_{u}.to(tl.int64)"

    def noted(self, u: int) -> dict[str, str]:
        among = {f"among_{u}": f"(row_{u}.to(tl.uint32) % {self.ratio}).to(tl.int32)"} if self.ratio > 1 else {}
        return {f"own_{u}": f"visited_{u}", **among}

    def claim(self, write: _Writer, u: int) -> list[str]:
        write(f"ours_{u} = (own_{u} >= first_edge) & (own_{u} < last_edge)")
        return [f"ours_{u}"]

    def own_row(self, u: int) -> str:
        return f"(own_{u} - first_edge).to(tl.int64)"

    def gradient(self, write: _Writer, table: PathTable, p: int, u: int, dw: str, live: str) -> None:
        _, c1, c2, c3 = (f"c{p}_{q}_{u}" for q in range(4))
        write("if NEED_Y:")
        write(f"    dy0 += ({dw}) * ({c1} + (2.0 * t_{u}) * ({c2} + (1.5 * t_{u}) * {c3}))")


STORED = Weights()


def _head(write: _Writer, name: str, arguments: str, table: PathTable, weights: Weights, chunked: bool = False) -> None:
    write("@triton.jit")
    write(f"def {name}({arguments}, OVERLAPS: tl.constexpr = False):")
    write.depth = 1
    write(f'"""degrees_in {table.degrees_in}, paths {[(path.l_in, path.l_edge, path.l_out) for path in table.paths]}."""')
    write("await_inputs(OVERLAPS)")
    write("channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)")
    write("inside = channel < CHANNELS")
    # Channels past the end read the last one: a mask on every load of the loop would cost a register set to zero each.
    write("read = tl.minimum(channel, CHANNELS - 1)")
    write("zero = tl.zeros((BLOCK,), x.dtype.element_ty)")
    if weights.in_fours:
        write("four = tl.zeros((BLOCK, 1), tl.int32) + tl.arange(0, 4)[None, :]")
    # int64, because edges x paths x channels passes 2^31 on large graphs
    write("node = tl.program_id(0).to(tl.int64)")
    if chunked:
        write("for node in range(tl.load(receivers) + node, tl.load(receivers + 1) + 1, tl.num_programs(0)):")
        write.depth += 1
    # Edges are counted in 32 bits (there is no room for more), addresses in 64.
    write("start = tl.load(receiver_offsets + node).to(tl.int32)")
    write("end = tl.load(receiver_offsets + node + 1).to(tl.int32)")


def _loads(write: _Writer, table: PathTable, weights: Weights, step: int, base: str, prefix: str = "") -> None:
    """Everything that the edges base, base + 1, .. read, before they compute: their loads are then under way together.

    Past the end is the last edge of the receiver once more (``_place``), so that a mask, which costs a zero for every number, is on
    x alone: an edge of zeros adds nothing. The first edge of a step needs none, because without it there is no step. Of a receiver
    without edges something is read that nobody uses, so there has to be an edge.
    """
    for u in range(step):
        row, guard = weights.edge(_place(base, u) if u or prefix else base, u), ""
        if u:
            write(f"{prefix}live_{u} = {base} + {u} < end")
            guard = f", mask={prefix}live_{u}, other=0.0"
        for name, value in weights.noted(u).items():
            write(f"{prefix}{name} = {value}")
        write(f"x_at = x + sender_{u} * ({table.num_in} * CHANNELS) + read")
        for i in range(table.num_in):
            write(f"{prefix}x{i}_{u} = tl.load(x_at + {i} * CHANNELS{guard})")
        write(f"w_at = {weights.address(table, row, u)}")
        weights.load_numbers(write, table, prefix, u)
        _load_scalars(write, table, weights, [f"{prefix}{name}_{u}" for name in weights.scalar_names(table)], row)


def _place(base: str, u: int) -> str:
    """u places after ``base``, and the last one past the end."""
    return f"tl.minimum({base} + {u}, last)"


def _first_loads(write: _Writer, table: PathTable, weights: Weights, step: int) -> None:
    """``_loads`` of the first step, before the loop, in a block that always runs, which LLVM knows and leaves no branch of.

    Triton (TritonGPUCoalesce) follows all values that are connected to a load, and from each the next: side by side with those in
    the loop these make it three times as long to compile, to the very same program.
    """
    for u in range(step):
        for name in _numbers(table, weights):
            write(f"next_{name}_{u} = zero")
        for name in weights.scalar_names(table):
            write(f"next_{name}_{u} = {'zero' if _come_in_fours(table, weights) else 'tl.full([], 0.0, x.dtype.element_ty)'}")
        for name in weights.noted(u):
            write(f"next_{name} = tl.full([], 0, tl.int32)")
    write("if tl.num_programs(0) > 0:")
    write.depth += 1
    _loads(write, table, weights, step, "start", "next_")
    write.depth -= 1


def _indices(write: _Writer, weights: Weights, step: int, base: str, guard: str = "") -> None:
    """Integers that the addresses of the edges base, base + 1, .. wait for: read one step before everything else."""
    for u in range(step):
        for name, array in weights.indices.items():
            write(f"{name}_{u} = tl.load({array} + {_place(base, u)}{guard})")


def _numbers(table: PathTable, weights: Weights) -> list[str]:
    """What an edge reads per channel."""
    return [f"x{i}" for i in range(table.num_in)] + weights.numbers(table)


def _come_in_fours(table: PathTable, weights: Weights) -> bool:
    """Whether every thread holds the real numbers of an edge, four from a load."""
    return weights.in_fours and table.num_edge % 4 == 0


def _load_scalars(write: _Writer, table: PathTable, weights: Weights, names: list[str], row: str) -> None:
    """The real numbers of an edge: four at a time and by every thread where they come in fours, which takes a quarter of the loads."""
    at = f"{weights.scalars} + {row} * {table.num_edge}"
    if not _come_in_fours(table, weights):
        for column, name in enumerate(names):
            write(f"{name} = tl.load({at} + {column})")
        return
    for column in range(0, table.num_edge, 4):
        write(f"{', '.join(names[column : column + 4])} = quarters(tl.load({at} + {column} + four))")


def _loop(write: _Writer, table: PathTable, weights: Weights, step: int, ahead: bool) -> None:
    """The head of the loop over edges; with ``ahead`` the numbers of the next step are loaded while this one computes."""
    write("last = tl.maximum(end - 1, 0)")
    guard = ", mask=start < end, other=0"  # where there is no edge, nobody knows what the arrays hold
    _indices(write, weights, step, "start", guard)
    if ahead:
        _first_loads(write, table, weights, step)
        _indices(write, weights, step, f"start + {step}", guard)
    write(f"for edge in range(start, end, {step}):")
    write.depth += 1
    if not ahead:
        _loads(write, table, weights, step, "edge")
        _indices(write, weights, step, f"edge + {step}")
        return
    for u in range(step):
        for name in _numbers(table, weights) + weights.scalar_names(table):
            write(f"{name}_{u} = next_{name}_{u}")
        for name in weights.noted(u):
            write(f"{name} = next_{name}")
        if u:
            write(f"live_{u} = edge + {u} < end")
    write(f"following = edge + {step}")
    _loads(write, table, weights, step, "following", "next_")
    _indices(write, weights, step, f"following + {step}")


def forward_source(table: PathTable, weights: Weights, step: int, max_sums: int, ahead: bool) -> str:
    """``forward``: out[k] = sum over the edges of one receiver of w_p sum_ij C_ijk x_i Y_j.

    A hoisted path sums b_ij = w_p x_i Y_j over edges and is coupled once per receiver; the others are coupled
    at every edge, out_k += sum_i (sum_j C_ijk Y_j) (w_p x_i).
    """
    write, hoisted = _Writer(), table.hoisted(max_sums)
    arguments = f"x, {weights.arguments}, out, CHANNELS: tl.constexpr, BLOCK: tl.constexpr"
    _head(write, f"{weights.op}_forward", arguments, table, weights)
    for p, terms in enumerate(table.terms):
        names = {f"b{p}_{t.i}_{t.j}": None for t in terms} if p in hoisted else {f"a{t.k}": None for t in terms}
        for name in names:
            write(f"{name} = zero")
    _loop(write, table, weights, step, ahead)
    for u in range(step):
        weights.prepare(write, u)
        for p, terms in enumerate(table.terms):
            weights.evaluate(write, p, u)
            for i in sorted({t.i for t in terms}):
                write(f"v{i} = w{p}_{u} * x{i}_{u}")
            if p in hoisted:
                for i, j in sorted({(t.i, t.j) for t in terms}):
                    write(f"b{p}_{i}_{j} += {weights.harmonic(f'v{i}', j, u)}")
            else:
                write.sums(_grouped([(f"m{t.i}_{t.k}", _times(t.value, f"y{t.j}_{u}")) for t in terms]))
                for i, k in sorted({(t.i, t.k) for t in terms}, key=lambda ik: (ik[1], ik[0])):
                    write(f"a{k} += m{i}_{k} * v{i}")
    write.depth = 1
    for p in sorted(hoisted):
        write.sums(_grouped([(f"a{t.k}", _times(t.value, f"b{p}_{t.i}_{t.j}")) for t in table.terms[p]]))
    write(f"at = out + node * ({table.num_out} * CHANNELS) + channel")
    for k in range(table.num_out):
        write(f"tl.store(at + {k} * CHANNELS, a{k}, mask=inside)")
    return write.text()


def backward_source(table: PathTable, weights: Weights, step: int, max_sums: int, ahead: bool, warp_sum: int, chunked: bool) -> str:
    """``backward``: the three gradients of <g, out> edge by edge, for the edges of one receiver.

    With h_ij = sum_k C_ijk g_k and u_i = sum_j h_ij Y_j of each path (h of a hoisted path is made once per receiver):
    dw_p = sum_i x_i u_i, dx_i = sum_p w_p u_i, dY_j = sum over p, i and channels of w_p x_i h_ij.
    dx is written per edge, to be summed over outgoing edges; dY per block of channels, to be summed over blocks.
    Where the harmonic of degree 0 is one, dt stands in the place of dY_0 (see ``Weights``).
    ``warp_sum`` (bytes of a number) sums dY over a block of 32 channels, one per lane, with ``warp_sum_asm``.
    """
    write, hoisted = _Writer(), table.hoisted(max_sums)
    constants = ", ".join(f"{name}: tl.constexpr" for name in ("CHANNELS", "BLOCK", *weights.flags))
    own = ", ".join([*weights.backward, *["receivers"] * chunked])
    arguments = f"g, x, {weights.arguments}, grad_x, grad_{weights.scalars}, {own},\n    {constants}"
    _head(write, f"{weights.op}_backward", arguments, table, weights, chunked)
    # Programs may share a receiver: what they write is written per edge.
    write("share = (end - start + tl.num_programs(2) - 1) // tl.num_programs(2)")
    write("start += tl.program_id(2) * share")
    write("end = tl.minimum(start + share, end)")
    write(f"of_block = grad_{weights.scalars} + tl.program_id(1).to(tl.int64) * {weights.num_rows} * {table.num_edge}")
    write(f"at = g + node * ({table.num_out} * CHANNELS) + channel")
    for k in range(table.num_out):
        write(f"g{k} = tl.load(at + {k} * CHANNELS, mask=inside, other=0.0)")
    for p in sorted(hoisted):
        write.sums(_grouped([(f"h{p}_{t.i}_{t.j}", _times(t.value, f"g{t.k}")) for t in table.terms[p]]))
    if warp_sum:
        share = 32 // triton.next_power_of_2(table.num_edge)  # lanes that end with the same sum
        write('lane = tl.inline_asm_elementwise("mov.u32 $0, %laneid;", "=r,r", [channel], dtype=tl.int32, is_pure=True, pack=1)')
        write(f"component = lane // {share}")
        write(f"owner = (lane % {share} == 0) & (component < {table.num_edge})")
    _loop(write, table, weights, step, ahead)
    for u in range(step):
        _backward_edge(write, table, weights, hoisted, u, warp_sum)
    return write.text()


def _backward_edge(write: _Writer, table: PathTable, weights: Weights, hoisted: frozenset[int], u: int, warp_sum: int) -> None:
    """Gradients of one edge of a step."""
    conditions = ([f"live_{u}"] if u else []) + weights.claim(write, u)
    live = " & ".join(["inside", *conditions])
    for i in range(table.num_in):
        write(f"dx{i} = zero")
    for j in range(table.num_edge):
        write(f"dy{j} = zero")
    for p in range(len(table.paths)):
        _backward_path(write, table, weights, p, p in hoisted, u, live)
    write("if NEED_X:")
    write(f"    at_x = grad_x + {weights.own_row(u)} * ({table.num_in} * CHANNELS) + channel")
    for i in range(table.num_in):
        write(f"    tl.store(at_x + {i} * CHANNELS, dx{i}, mask={live})")
    write("if NEED_Y:")
    write.depth += 1
    _store_sums(write, table, f"of_block + {weights.own_row(u)} * {table.num_edge}", warp_sum, conditions)
    write.depth -= 1


def _backward_path(write: _Writer, table: PathTable, weights: Weights, p: int, hoisted: bool, u: int, live: str) -> None:
    """What one path adds to the gradients of an edge."""
    terms = table.terms[p]
    inputs, pairs = sorted({t.i for t in terms}), sorted({(t.i, t.j) for t in terms})
    weights.evaluate(write, p, u)
    write(f"if {weights.need_u}:")
    write.depth += 1
    if hoisted:
        write.sums(_grouped([(f"u{i}", weights.harmonic(f"h{p}_{i}_{j}", j, u)) for i, j in pairs]))
    else:
        write.sums(_grouped([(f"m{t.i}_{t.k}", _times(t.value, f"y{t.j}_{u}")) for t in terms]))
        write.sums(_grouped([(f"u{i}", f"m{i}_{k} * g{k}") for i, k in sorted({(t.i, t.k) for t in terms})]))
    write.depth -= 1
    write("if NEED_X:")
    for i in inputs:
        write(f"    dx{i} += w{p}_{u} * u{i}")
    weights.gradient(write, table, p, u, " + ".join(f"x{i}_{u} * u{i}" for i in inputs), live)
    if weights.unit_harmonic and table.paths[p].l_edge == 0:
        return
    write("if NEED_Y:")
    write.depth += 1
    for i in inputs:
        write(f"v{i} = w{p}_{u} * x{i}_{u}")
    if hoisted:
        write.additions(_grouped([(f"dy{j}", f"v{i} * h{p}_{i}_{j}") for i, j in pairs]))
    else:
        for i, k in sorted({(t.i, t.k) for t in terms}):
            write(f"z{i}_{k} = v{i} * g{k}")
        write.additions(_grouped([(f"dy{t.j}", _times(t.value, f"z{t.i}_{t.k}")) for t in terms]))
    write.depth -= 1


def _store_sums(write: _Writer, table: PathTable, at: str, warp_sum: int, conditions: list[str]) -> None:
    """dY of an edge, summed over the channels of the block."""
    if warp_sum:
        asm, constraints = warp_sum_asm(table.num_edge, warp_sum)
        write("sums = tl.inline_asm_elementwise(")
        write(f"    {asm!r},")
        names = ", ".join(f"dy{j}" for j in range(table.num_edge))
        write(f"    {constraints!r}, [{names}], dtype=tl.float{8 * warp_sum}, is_pure=False, pack=1)")
        write(f"tl.store({at} + component, sums, mask={' & '.join(['owner', *conditions])})")
    else:
        guard = f", mask={' & '.join(conditions)}" if conditions else ""
        for j in range(table.num_edge):
            write(f"tl.store({at} + {j}, tl.sum(dy{j}, axis=0){guard})")


def source(
    direction: str, table: PathTable, step: int, max_sums: int, ahead: bool = False, warp_sum: int = 0, weights: Weights = STORED,
    chunked: bool = False,
) -> str:  # fmt: skip
    """The text of the ``forward`` or ``backward`` kernel of a table; see ``launch.Config`` for the numbers."""
    if direction == "forward":
        return forward_source(table, weights, step, max_sums, ahead)
    return backward_source(table, weights, step, max_sums, ahead, warp_sum, chunked)


@lru_cache(maxsize=256)
def kernel(
    direction: str, table: PathTable, step: int, max_sums: int, ahead: bool = False, warp_sum: int = 0, weights: Weights = STORED,
    chunked: bool = False,
) -> Any:  # fmt: skip
    """The kernel itself; made once, compiled by triton for each device and set of constants."""
    text = source(direction, table, step, max_sums, ahead, warp_sum, weights, chunked)
    function = f"{weights.op}_{direction}"
    name = f"<mosso {function} {hash((table, step, max_sums, ahead, warp_sum, weights.ratio, chunked)):x}>"
    # triton reads the source of what it compiles through inspect, which looks here for code that has no file
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"triton": triton, "tl": tl, "await_inputs": await_inputs, "quarters": quarters, "__name__": __name__}
    exec(compile(text, name, "exec"), namespace)
    return namespace[function]
