"""Triton source of the edge convolution, written out for one table of coupling paths.

The indices of a coupling table are known before the kernel is compiled, so every product becomes one line of
straight code on registers: no loop over paths, no table in memory, nothing multiplied by zero. ``source`` shows
what runs; tracebacks and profilers find the same lines.
"""

import linecache
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import triton
import triton.language as tl

from mosso.kernels.fused import FINGERPRINT
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

    def hoisted(self, max_sums: int) -> frozenset[int]:
        """Paths whose coupling is taken out of the loop over edges: the cheapest in registers, while ``max_sums`` lasts."""
        pairs = [len({(t.i, t.j) for t in terms}) for terms in self.terms]
        growth = [count - (2 * path.l_out + 1) for count, path in zip(pairs, self.paths, strict=True)]
        total, chosen = self.num_out, set()
        for p in sorted(range(len(pairs)), key=lambda p: growth[p]):
            if total + growth[p] <= max_sums:
                total += growth[p]
                chosen.add(p)
        return frozenset(chosen)


class _Writer:
    """Lines of Python with their indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, line: str = "") -> None:
        self.lines.append("    " * self.depth + line if line else "")

    def sums(self, targets: dict[str, list[str]], operator: str = "=") -> None:
        """``target = a + b + ...`` for every target."""
        for target, parts in targets.items():
            self(f"{target} {operator} {' + '.join(parts)}")

    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def _grouped(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for target, part in pairs:
        groups.setdefault(target, []).append(part)
    return groups


def _times(value: float, name: str) -> str:
    return name if value == 1.0 else f"{value!r} * {name}"


def _head(write: _Writer, name: str, arguments: str, table: PathTable) -> None:
    write("@triton.jit")
    write(f"def {name}({arguments}):")
    write.depth = 1
    write(f'"""degrees_in {table.degrees_in}, paths {[(path.l_in, path.l_edge, path.l_out) for path in table.paths]}."""')
    # int64, because edges x paths x channels passes 2^31 on large graphs
    write("node = tl.program_id(0).to(tl.int64)")
    write("channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)")
    write("inside = channel < CHANNELS")
    write("start = tl.load(receiver_offsets + node)")
    write("end = tl.load(receiver_offsets + node + 1)")
    write("zero = tl.zeros((BLOCK,), x.dtype.element_ty)")


def _loads(write: _Writer, table: PathTable, step: int, base: str, prefix: str = "") -> None:
    """Everything that the edges base, base + 1, .. read, before they compute: their loads are then under way together.

    Senders are read one step before that, because the address of x waits for them.
    """
    for u in range(step):
        live, guard, row = "inside", "", f"({base} + {u})" if u else base
        if u or prefix:
            write(f"{prefix}live_{u} = {base} + {u} < end")
            live, guard = f"inside & {prefix}live_{u}", f", mask={prefix}live_{u}, other=0.0"
        write(f"at = x + sender_{u} * ({table.num_in} * CHANNELS) + channel")
        for i in range(table.num_in):
            write(f"{prefix}x{i}_{u} = tl.load(at + {i} * CHANNELS, mask={live}, other=0.0)")
        write(f"at = weights + {row} * ({len(table.paths)} * CHANNELS) + channel")
        for p in range(len(table.paths)):
            write(f"{prefix}w{p}_{u} = tl.load(at + {p} * CHANNELS, mask={live}, other=0.0)")
        for j in range(table.num_edge):
            write(f"{prefix}y{j}_{u} = tl.load(harmonics + {row} * {table.num_edge} + {j}{guard})")
    for u in range(step):
        write(f"sender_{u} = tl.load(senders + {base} + {step + u}, mask={base} + {step + u} < end, other=0)")


def _loop(write: _Writer, table: PathTable, step: int, ahead: bool) -> None:
    """The head of the loop over edges; with ``ahead`` the numbers of the next step are loaded while this one computes."""
    for u in range(step):
        write(f"sender_{u} = tl.load(senders + start + {u}, mask=start + {u} < end, other=0)")
    if ahead:
        _loads(write, table, step, "start", "next_")
    write(f"for edge in range(start, end, {step}):")
    write.depth = 2
    if not ahead:
        _loads(write, table, step, "edge")
        return
    for u in range(step):
        names = [f"x{i}_{u}" for i in range(table.num_in)] + [f"w{p}_{u}" for p in range(len(table.paths))]
        for name in names + [f"y{j}_{u}" for j in range(table.num_edge)]:
            write(f"{name} = next_{name}")
        write(f"live_{u} = edge + {u} < end")
    write(f"following = edge + {step}")
    _loads(write, table, step, "following", "next_")


def forward_source(table: PathTable, step: int, max_sums: int, ahead: bool) -> str:
    """``forward``: out[k] = sum over the edges of one receiver of w_p sum_ij C_ijk x_i Y_j.

    A hoisted path sums b_ij = w_p x_i Y_j over edges and is coupled once per receiver; the others are coupled
    at every edge, out_k += sum_i (sum_j C_ijk Y_j) (w_p x_i).
    """
    write, hoisted = _Writer(), table.hoisted(max_sums)
    arguments = "x, harmonics, weights, senders, receiver_offsets, out, CHANNELS: tl.constexpr, BLOCK: tl.constexpr"
    _head(write, "edge_convolution_forward", arguments, table)
    for p, terms in enumerate(table.terms):
        names = {f"b{p}_{t.i}_{t.j}": None for t in terms} if p in hoisted else {f"a{t.k}": None for t in terms}
        for name in names:
            write(f"{name} = zero")
    _loop(write, table, step, ahead)
    for u in range(step):
        for p, terms in enumerate(table.terms):
            for i in sorted({t.i for t in terms}):
                write(f"v{i} = w{p}_{u} * x{i}_{u}")
            if p in hoisted:
                for i, j in sorted({(t.i, t.j) for t in terms}):
                    write(f"b{p}_{i}_{j} += v{i} * y{j}_{u}")
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


def warp_sum_asm(count: int, itemsize: int) -> tuple[str, str]:
    """PTX that sums ``count`` values over the lanes of a warp, and its constraints; lane l ends with sum l * width // 32.

    At each level lanes exchange half of the values they still hold, so that 16 sums cost 15 + 1 shuffles instead of
    the 80 of one reduction after the other, which took as long as all the arithmetic. width: count as a power of two.
    """
    kind, width = {4: "f32", 8: "f64"}[itemsize], triton.next_power_of_2(count)
    lines = [f".reg .{kind} v<{width}>, keep, send;", ".reg .b32 lane, bit, low, high;", ".reg .pred upper;", "mov.u32 lane, %laneid;"]
    for q in range(width):
        lines.append(
            f"mov.{kind} v{q}, ${q + 1};" if q < count else f"mov.{kind} v{q}, {'0f00000000' if itemsize == 4 else '0d0000000000000000'};"
        )
    for mask in (16, 8, 4, 2, 1):
        halves = width > 1
        width = max(width // 2, 1)
        if halves:
            lines += [f"and.b32 bit, lane, {mask};", "setp.ne.u32 upper, bit, 0;"]
        for q in range(width):
            if halves:
                lines += [f"selp.{kind} keep, v{q + width}, v{q}, upper;", f"selp.{kind} send, v{q}, v{q + width}, upper;"]
            else:
                lines += [f"mov.{kind} keep, v{q};", f"mov.{kind} send, v{q};"]
            if itemsize == 4:
                lines += ["mov.b32 low, send;", _shuffle("low", mask), "mov.b32 send, low;"]
            else:
                lines += ["mov.b64 {low, high}, send;", _shuffle("low", mask), _shuffle("high", mask), "mov.b64 send, {low, high};"]
            lines.append(f"add.{kind} v{q}, keep, send;")
    lines.append(f"mov.{kind} $0, v0;")
    letter = {4: "f", 8: "d"}[itemsize]
    return "{ " + " ".join(lines) + " }", ",".join([f"={letter}"] + [letter] * count)


def _shuffle(register: str, mask: int) -> str:
    return f"shfl.sync.bfly.b32 {register}, {register}, {mask}, 0x1f, 0xffffffff;"


def backward_source(table: PathTable, step: int, max_sums: int, ahead: bool, warp_sum: int) -> str:
    """``backward``: the three gradients of <g, out> edge by edge, for the edges of one receiver.

    With h_ij = sum_k C_ijk g_k and u_i = sum_j h_ij Y_j of each path (h of a hoisted path is made once per receiver):
    dw_p = sum_i x_i u_i, dx_i = sum_p w_p u_i, dY_j = sum over p, i and channels of w_p x_i h_ij.
    dx is written per edge, to be summed over outgoing edges; dY per block of channels, to be summed over blocks.
    ``warp_sum`` (bytes of a number) sums dY over a block of 32 channels, one per lane, with ``warp_sum_asm``.
    """
    write, hoisted = _Writer(), table.hoisted(max_sums)
    arguments = (
        "g, x, harmonics, weights, senders, receiver_offsets, grad_x, grad_harmonics, grad_weights, num_edges,\n"
        "    CHANNELS: tl.constexpr, BLOCK: tl.constexpr, NEED_X: tl.constexpr, NEED_Y: tl.constexpr, NEED_W: tl.constexpr"
    )
    _head(write, "edge_convolution_backward", arguments, table)
    write("grad_harmonics += tl.program_id(1).to(tl.int64) * num_edges * " + str(table.num_edge))
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
    _loop(write, table, step, ahead)
    for u in range(step):
        _backward_edge(write, table, hoisted, u, warp_sum)
    return write.text()


def _backward_edge(write: _Writer, table: PathTable, hoisted: frozenset[int], u: int, warp_sum: int) -> None:
    """Gradients of one edge of a step."""
    live = "inside" if u == 0 else f"inside & live_{u}"
    row = f"(edge + {u})" if u else "edge"
    write(f"at = grad_weights + {row} * ({len(table.paths)} * CHANNELS) + channel")
    for i in range(table.num_in):
        write(f"dx{i} = zero")
    for j in range(table.num_edge):
        write(f"dy{j} = zero")
    for p, terms in enumerate(table.terms):
        inputs = sorted({t.i for t in terms})
        write("if NEED_X or NEED_W:")
        write.depth += 1
        if p in hoisted:
            pairs = sorted({(t.i, t.j) for t in terms})
            write.sums(_grouped([(f"u{i}", f"h{p}_{i}_{j} * y{j}_{u}") for i, j in pairs]))
        else:
            write.sums(_grouped([(f"m{t.i}_{t.k}", _times(t.value, f"y{t.j}_{u}")) for t in terms]))
            write.sums(_grouped([(f"u{i}", f"m{i}_{k} * g{k}") for i, k in sorted({(t.i, t.k) for t in terms})]))
        write.depth -= 1
        write("if NEED_X:")
        for i in inputs:
            write(f"    dx{i} += w{p}_{u} * u{i}")
        write("if NEED_W:")
        write(f"    tl.store(at + {p} * CHANNELS, {' + '.join(f'x{i}_{u} * u{i}' for i in inputs)}, mask={live})")
        write("if NEED_Y:")
        write.depth += 1
        for i in inputs:
            write(f"v{i} = w{p}_{u} * x{i}_{u}")
        if p in hoisted:
            write.sums(_grouped([(f"dy{j}", f"v{i} * h{p}_{i}_{j}") for i, j in pairs]), "+=")
        else:
            for i, k in sorted({(t.i, t.k) for t in terms}):
                write(f"z{i}_{k} = v{i} * g{k}")
            write.sums(_grouped([(f"dy{t.j}", _times(t.value, f"z{t.i}_{t.k}")) for t in terms]), "+=")
        write.depth -= 1
    write("if NEED_X:")
    write(f"    at = grad_x + {row} * ({table.num_in} * CHANNELS) + channel")
    for i in range(table.num_in):
        write(f"    tl.store(at + {i} * CHANNELS, dx{i}, mask={live})")
    write("if NEED_Y:")
    write.depth += 1
    if warp_sum:
        asm, constraints = warp_sum_asm(table.num_edge, warp_sum)
        write("sums = tl.inline_asm_elementwise(")
        write(f"    {asm!r},")
        names = ", ".join(f"dy{j}" for j in range(table.num_edge))
        write(f"    {constraints!r}, [{names}], dtype=tl.float{8 * warp_sum}, is_pure=False, pack=1)")
        write(f"tl.store(grad_harmonics + {row} * {table.num_edge} + component, sums, mask={live.replace('inside', 'owner')})")
    else:
        guard = f", mask=live_{u}" if u else ""
        for j in range(table.num_edge):
            write(f"tl.store(grad_harmonics + {row} * {table.num_edge} + {j}, tl.sum(dy{j}, axis=0){guard})")
    write.depth -= 1


def source(direction: str, table: PathTable, step: int, max_sums: int, ahead: bool = False, warp_sum: int = 0) -> str:
    """The text of the ``forward`` or ``backward`` kernel of a table; see ``edge_convolution.Config`` for the numbers."""
    if direction == "forward":
        return forward_source(table, step, max_sums, ahead)
    return backward_source(table, step, max_sums, ahead, warp_sum)


@lru_cache(maxsize=256)
def kernel(direction: str, table: PathTable, step: int, max_sums: int, ahead: bool = False, warp_sum: int = 0) -> Any:
    """The kernel itself; made once, compiled by triton for each device and set of constants."""
    text = source(direction, table, step, max_sums, ahead, warp_sum)
    name = f"<mosso edge_convolution_{direction} {hash((table, step, max_sums, ahead, warp_sum)):x}>"
    # triton reads the source of what it compiles through inspect, which looks here for code that has no file
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"triton": triton, "tl": tl, "__name__": __name__}
    exec(compile(text, name, "exec"), namespace)
    return namespace[f"edge_convolution_{direction}"]
