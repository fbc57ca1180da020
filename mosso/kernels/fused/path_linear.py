# mypy: disallow-untyped-defs=False
"""Equivariant linear layers in Triton: every degree, every block of paths and every species in one launch.

out[n, m of degree l, d] = sum over blocks b and channels c of x[n, start_b + m, c] w_l[b C + c, d] is one matrix product per
degree whose rows are the pairs (n, m) and whose inner index is (b, c). A program makes a tile of one of these products and
reads x where it lies. The form <g, out> is linear in x, w and g; its derivative with respect to x is the same kernel with
the parts of input and output exchanged ("mirrored"): one product per degree and block, over d instead of (b, c).
With weights per species the rows of a tile are atoms of one species, found through ``SpeciesGroups.order_N``.
A bias by species may be added to the rows of degree 0; nothing else depends on it.

N atoms, K rows of x, M rows of the output, C and D their channels, T tiles of atoms of one species.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT
from mosso.kernels.fused.launch import ceil_div, launch, multiplies_in_double, register
from mosso.kernels.fused.overlap import await_inputs
from mosso.kernels.reference import TILE_ATOMS, SpeciesGroups
from mosso.math.irreps import num_components
from mosso.precision import MATMULS

# The kernel takes the matrices of so many degrees, each through a pointer of its own.
MAX_DEGREES = 6


class Config(NamedTuple):
    """How the kernel is cut: rows, columns and inner numbers of a tile, warps, stages of its pipeline of loads."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int


def config(num_rows: int, channels_in: int, channels_out: int, itemsize: int, matmul: str) -> Config:
    """The largest tiles that spill nothing on sm_90 and still make two programs for each of the 132 multiprocessors of an H200."""
    columns = min(64, max(16, triton.next_power_of_2(channels_out)))
    # Not by the number of rows, which would give a row other bits beside more of them.
    depth = 16 if matmul == "double" else min(32, max(16, triton.next_power_of_2(channels_in)))
    row_tiles_wanted = ceil_div(2 * 132, ceil_div(channels_out, columns))
    if itemsize == 8 or num_rows < 64 * row_tiles_wanted:
        return Config(32, columns, depth, 4, 3)
    if matmul == "double":
        return Config(64, columns, depth, 4, 4)
    if num_rows < 128 * row_tiles_wanted:
        return Config(64, columns, depth, 4, 3)
    return Config(128, columns, depth, 8, 3)


class Segment(NamedTuple):
    """Rows of the output that are made alike, ``width`` consecutive ones of every atom.

    Attributes:
        width: 2 l + 1.
        first: the first of them.
        matrix: which matrix makes them.
        block: where in its rows the channels of the output begin, in blocks; zero where they are its columns.
        num_blocks: blocks of that matrix.
        inputs: first rows of the input blocks that are mixed.
    """

    width: int
    first: int
    matrix: int
    block: int
    num_blocks: int
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Which of the ``num_rows`` rows of x make which rows of the output; degrees and blocks are kept as text where an op carries them."""

    num_rows: int
    degrees: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @staticmethod
    def describe(degrees: tuple[int, ...], starts: tuple[tuple[int, ...], ...]) -> str:
        """Degrees and blocks as text, put together in a way that torch.compile can follow."""
        blocks = [":".join([str(degree), *[str(first) for first in firsts]]) for degree, firsts in zip(degrees, starts, strict=True)]
        return ";".join([FINGERPRINT, *blocks])

    @staticmethod
    @lru_cache(maxsize=256)
    def parse(text: str, num_rows: int) -> "Layout":
        _, *blocks = text.split(";")
        numbers = [tuple(int(number) for number in block.split(":")) for block in blocks]
        layout = Layout(num_rows, tuple(n[0] for n in numbers), tuple(n[1:] for n in numbers))
        read = [start + m for width, firsts in layout.blocks for start in firsts for m in range(width)]
        assert all(layout.starts), "every degree needs a block"
        assert len(layout.degrees) <= MAX_DEGREES, f"the kernel takes at most {MAX_DEGREES} degrees"
        assert len(set(read)) == len(read) and max(read) < num_rows, "blocks share rows or end behind the last row of x"
        return layout

    @property
    def blocks(self) -> list[tuple[int, tuple[int, ...]]]:
        """Per degree 2 l + 1 and the first rows of its blocks."""
        return [(2 * degree + 1, firsts) for degree, firsts in zip(self.degrees, self.starts, strict=True)]

    @property
    def num_out(self) -> int:
        return num_components(self.degrees)

    @property
    def scalars(self) -> int:
        """Which row of the output has degree 0."""
        return num_components(self.degrees[: self.degrees.index(0)])

    @property
    def reads_all(self) -> bool:
        """Whether every row of x belongs to a block."""
        return sum(segment.width for segment in self.segments(mirrored=True)) == self.num_rows

    def segments(self, mirrored: bool) -> list[Segment]:
        """What the kernel makes: a segment per degree of the output, or mirrored one per block of x."""
        found, first = [], 0
        for matrix, (width, starts) in enumerate(self.blocks):
            if mirrored:
                found += [Segment(width, start, matrix, block, len(starts), (first,)) for block, start in enumerate(starts)]
            else:
                found.append(Segment(width, first, matrix, 0, len(starts), starts))
            first += width
        return found


@lru_cache(maxsize=256)
def _table(layout: Layout, mirrored: bool) -> tuple[tuple[int, ...], int]:
    """The segments as one row of numbers, which is what a kernel takes for a constant, and how many numbers each has."""
    segments = layout.segments(mirrored)
    longest = max(len(segment.inputs) for segment in segments)
    numbers = [
        number
        for segment in segments
        for number in (*segment[:5], len(segment.inputs), *segment.inputs, *(0,) * (longest - len(segment.inputs)))
    ]
    return tuple(numbers), 6 + longest


@triton.jit
def _segment_of(tile, atoms, TABLE: tl.constexpr, SEGMENTS: tl.constexpr, FIELDS: tl.constexpr, ROWS: tl.constexpr):
    """The segment that ``tile`` belongs to where each has tiles for so many ``atoms``, and the first tile of that segment."""
    segment = 0
    begin = 0
    before = 0
    for i in tl.static_range(SEGMENTS):
        if tile >= before:
            segment = i
            begin = before
        before += (atoms * TABLE[i * FIELDS] + ROWS - 1) // ROWS
    return segment, begin


@triton.jit
def _field(segment, field: tl.constexpr, TABLE: tl.constexpr, SEGMENTS: tl.constexpr, FIELDS: tl.constexpr):
    """A number of a segment, by a chain of selections between constants."""
    number = 0
    for i in tl.static_range(SEGMENTS):
        number = tl.where(segment == i, TABLE[i * FIELDS + field], number)
    return number


@triton.jit
def _first_row(segment, block, TABLE: tl.constexpr, SEGMENTS: tl.constexpr, FIELDS: tl.constexpr):
    """Where a block of a segment begins in x. Only the last selection changes from block to block."""
    start = 0
    for b in tl.static_range(FIELDS - 6):
        start = tl.where(block == b, _field(segment, 6 + b, TABLE, SEGMENTS, FIELDS), start)
    return start


@triton.jit
def _matrix(index, w0, w1, w2, w3, w4, w5):
    """One of the pointers."""
    low = tl.where(index == 0, w0, tl.where(index == 1, w1, w2))
    return tl.where(index < 3, low, tl.where(index == 3, w3, tl.where(index == 4, w4, w5)))


@triton.jit
def nearest_tf32(x):
    """Float32 whose upper 19 bits are the nearest tf32: tensor cores drop the others, which by itself makes sums too small."""
    return (x.to(tl.int32, bitcast=True) + 0x1000).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["num_atoms"])
def _mix(
    x,
    w0,
    w1,
    w2,
    w3,
    w4,
    w5,
    order,
    tiles,
    bias,
    species_of_atom,
    out,
    num_atoms,
    TABLE: tl.constexpr,
    SEGMENTS: tl.constexpr,
    FIELDS: tl.constexpr,
    BY_SPECIES: tl.constexpr,
    BIAS: tl.constexpr,
    TILE: tl.constexpr,
    ROWS_IN: tl.constexpr,
    ROWS_OUT: tl.constexpr,
    C_IN: tl.constexpr,
    C_OUT: tl.constexpr,
    STRIDE_IN: tl.constexpr,
    STRIDE_OUT: tl.constexpr,
    MATMUL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """A tile of ROWS pairs (atom, component) of one segment by COLUMNS channels of the output.

    STRIDE_IN and STRIDE_OUT are the steps in a matrix from one channel of the input, or of the output, to the next.
    """
    await_inputs(OVERLAPS)
    NUMBER: tl.constexpr = x.dtype.element_ty
    SUM: tl.constexpr = tl.float64 if MATMUL == "double" else NUMBER
    OPERAND: tl.constexpr = tl.bfloat16 if MATMUL == "bf16" else tl.float16 if MATMUL == "fp16" else SUM
    PRECISION: tl.constexpr = "tf32" if MATMUL == "tf32" else "ieee"
    COLUMN_TILES: tl.constexpr = (C_OUT + COLUMNS - 1) // COLUMNS
    CHUNKS: tl.constexpr = (C_IN + DEPTH - 1) // DEPTH
    # The columns of a tile of rows come one after the other, so that x is still in the cache.
    tile = tl.program_id(0) // COLUMN_TILES
    column = tl.program_id(0) % COLUMN_TILES * COLUMNS + tl.arange(0, COLUMNS)
    first = 0
    count = num_atoms
    capacity = num_atoms
    if BY_SPECIES:
        # The grid is T times the tiles of rows that TILE atoms can fill.
        per_group = 0
        for i in tl.static_range(SEGMENTS):
            per_group += (TILE * TABLE[i * FIELDS] + ROWS - 1) // ROWS
        group = tiles + 3 * (tile // per_group)
        tile = tile % per_group
        first = tl.load(group + 1)
        count = tl.load(group + 2)
        capacity = TILE

    segment, begin = _segment_of(tile, capacity, TABLE, SEGMENTS, FIELDS, ROWS)
    width = _field(segment, 0, TABLE, SEGMENTS, FIELDS)
    weight = _matrix(_field(segment, 2, TABLE, SEGMENTS, FIELDS), w0, w1, w2, w3, w4, w5)
    weight += _field(segment, 3, TABLE, SEGMENTS, FIELDS) * (C_OUT * STRIDE_OUT)
    num_steps = _field(segment, 5, TABLE, SEGMENTS, FIELDS) * CHUNKS
    if BY_SPECIES:
        weight += tl.load(group).to(tl.int64) * _field(segment, 4, TABLE, SEGMENTS, FIELDS) * (C_IN * C_OUT)
        # A group seldom fills all its tiles of rows.
        num_steps = tl.where((tile - begin) * ROWS < count * width, num_steps, 0)

    row = (tile - begin) * ROWS + tl.arange(0, ROWS)
    row_inside = row < count * width
    atom = first + row // width
    component = row % width
    if BY_SPECIES:
        atom = tl.load(order + atom, mask=row_inside, other=0)
    atom = atom.to(tl.int64)
    x_row = x + atom * (ROWS_IN * C_IN) + component * C_IN
    w_column = weight + column * STRIDE_OUT
    inside = row_inside[:, None] & (column < C_OUT)[None, :]

    total = tl.zeros((ROWS, COLUMNS), SUM)
    for step in range(num_steps):
        block = step // CHUNKS
        inner = step % CHUNKS * DEPTH + tl.arange(0, DEPTH)
        start = _first_row(segment, block, TABLE, SEGMENTS, FIELDS)
        x_inside = row_inside[:, None]
        if C_IN % DEPTH != 0:
            x_inside = x_inside & (inner < C_IN)[None, :]
        left = tl.load(x_row[:, None] + (start * C_IN + inner)[None, :], mask=x_inside, other=0.0)
        w_at = w_column[None, :] + ((block * C_IN + inner) * STRIDE_IN)[:, None]
        if C_IN % DEPTH != 0 or C_OUT % COLUMNS != 0:
            right = tl.load(w_at, mask=(inner < C_IN)[:, None] & (column < C_OUT)[None, :], other=0.0)
        else:
            right = tl.load(w_at)
        if MATMUL == "tf32":
            left = nearest_tf32(left)
            right = nearest_tf32(right)
        total = tl.dot(left.to(OPERAND), right.to(OPERAND), total, input_precision=PRECISION, out_dtype=SUM)

    if BIAS:
        kind = tl.load(species_of_atom + atom, mask=row_inside, other=0)
        # One row per atom: the segment is the one of degree 0.
        total += tl.load(bias + kind[:, None] * C_OUT + column[None, :], mask=inside & (width == 1), other=0.0)
    row_out = _field(segment, 1, TABLE, SEGMENTS, FIELDS) + component
    tl.store(out + atom[:, None] * (ROWS_OUT * C_OUT) + row_out[:, None] * C_OUT + column[None, :], total, mask=inside)


def _shape(x: Tensor, weights: Sequence[Tensor], layout: Layout, mirrored: bool) -> tuple[int, int, int]:
    """Atoms, rows and channels of the output."""
    if not mirrored:
        return x.shape[0], layout.num_out, int(weights[0].shape[-1])
    return x.shape[0], layout.num_rows, int(weights[0].shape[-2]) // len(layout.starts[0])


def _fake_mixed(x, weights, order, tiles, bias, species, blocks, num_rows, mirrored, matmul):
    return x.new_empty(_shape(x, weights, Layout.parse(blocks, int(num_rows)), mirrored))


@register("path_linear", _fake_mixed)
def _mixed(
    x: Tensor,
    weights: Sequence[Tensor],
    order: Tensor | None,
    tiles: Tensor | None,
    bias: Tensor | None,
    species: Tensor | None,
    blocks: str,
    num_rows: int,
    mirrored: bool,
    matmul: str,
) -> Tensor:
    """(N, M, D) rows of x mixed by the weights; mirrored, the derivative of <x, mixed> with respect to what was mixed, (N, K, C)."""
    layout = Layout.parse(blocks, int(num_rows))
    num_atoms, rows_out, channels_out = _shape(x, weights, layout, mirrored)
    # Ints, also where compilers trace with unknown sizes: kernels are made for a number of channels.
    rows_in, channels_in = int(x.shape[1]), int(x.shape[2])
    _check(x, weights, layout, mirrored, (channels_out, channels_in) if mirrored else (channels_in, channels_out))
    assert (bias is None) == (species is None), "a bias goes by the species of atoms"
    assert bias is None or (bias.shape[1] == channels_out and 0 in layout.degrees and not mirrored)
    out = (x.new_zeros if mirrored and not layout.reads_all else x.new_empty)((num_atoms, rows_out, channels_out))
    table, fields = _table(layout, mirrored)
    widths = table[::fields]
    if x.dtype == torch.float64:
        matmul = "ieee"
    elif matmul == "ieee" and multiplies_in_double(x.device):
        matmul = "double"
    cut = config(num_atoms * sum(widths), channels_in, channels_out, x.element_size(), matmul)
    row_tiles = sum(ceil_div((TILE_ATOMS if tiles is not None else num_atoms) * width, cut.rows) for width in widths)
    row_tiles *= tiles.shape[0] if tiles is not None else 1
    matrices = [weight.contiguous() for weight in weights]
    launch(
        _mix,
        (row_tiles * ceil_div(channels_out, cut.columns),),
        x.contiguous(),
        *matrices,
        *matrices[:1] * (MAX_DEGREES - len(matrices)),
        *(None if t is None else t.contiguous() for t in (order, tiles, bias, species)),
        out,
        num_atoms,
        TABLE=table,
        SEGMENTS=len(widths),
        FIELDS=fields,
        BY_SPECIES=tiles is not None,
        BIAS=bias is not None,
        TILE=TILE_ATOMS,
        ROWS_IN=rows_in,
        ROWS_OUT=rows_out,
        C_IN=channels_in,
        C_OUT=channels_out,
        STRIDE_IN=1 if mirrored else channels_out,
        STRIDE_OUT=channels_in if mirrored else 1,
        MATMUL=matmul,
        ROWS=cut.rows,
        COLUMNS=cut.columns,
        DEPTH=cut.depth,
        num_warps=cut.num_warps,
        num_stages=cut.num_stages,
    )
    return out


def _check(x: Tensor, weights: Sequence[Tensor], layout: Layout, mirrored: bool, channels: tuple[int, int]) -> None:
    assert x.shape[1] == (layout.num_out if mirrored else layout.num_rows)
    assert len(weights) == len(layout.degrees)
    for weight, firsts in zip(weights, layout.starts, strict=True):
        assert weight.shape[-2:] == (len(firsts) * channels[0], channels[1])


def _weight_gradients(
    x: Tensor, g: Tensor, like: Sequence[Tensor], order: Tensor | None, tiles: Tensor | None, layout: Layout
) -> list[Tensor]:
    """d <g, mixed(x)> / d weights, in torch: training needs it, inference does not."""
    grads, first = [], 0
    for weight, (width, starts) in zip(like, layout.blocks, strict=True):
        left = torch.cat([x[:, start : start + width] for start in starts], dim=2)
        right = g[:, first : first + width]
        first += width
        if order is None or tiles is None:
            grads.append(left.flatten(0, 1).T @ right.flatten(0, 1))
            continue
        species_T, first_T, count_T = tiles.long().unbind(1)
        within = torch.arange(TILE_ATOMS, device=x.device)
        atoms_TA = order[(first_T[:, None] + within).clamp(max=order.shape[0] - 1)]
        real_TA = (within < count_T[:, None])[:, :, None, None]
        products = (left[atoms_TA] * real_TA).flatten(1, 2).transpose(1, 2) @ right[atoms_TA].flatten(1, 2)
        grads.append(torch.zeros_like(weight).index_add(0, species_T, products))
    return grads


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weights, order, tiles, bias, species, ctx.blocks, ctx.num_rows, ctx.mirrored, ctx.matmul = inputs
    ctx.bias_shape = None if bias is None else bias.shape
    # Only the gradients of weights ask for x, which simulations would keep for nothing.
    kept = x if any(weight.requires_grad for weight in weights) else None
    ctx.save_for_backward(kept, *weights, order, tiles, species)


def _derivative(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    x, *weights, order, tiles, species = ctx.saved_tensors
    layout = Layout.parse(ctx.blocks, int(ctx.num_rows))
    needs_x, needs_weights, _, _, needs_bias, *_ = ctx.needs_input_grad
    grad_x = grad_bias = None
    if needs_x:
        grad_x = _mixed(g, weights, order, tiles, None, None, ctx.blocks, ctx.num_rows, not ctx.mirrored, ctx.matmul)
    if needs_bias:
        grad_bias = g.new_zeros(ctx.bias_shape).index_add(0, species, g[:, layout.scalars])
    grad_weights: list[Tensor | None] = [None] * len(weights)
    if any(needs_weights):
        rows, cotangent = (g, x) if ctx.mirrored else (x, g)
        grads = _weight_gradients(rows, cotangent, weights, order, tiles, layout)
        grad_weights = [grad if need else None for grad, need in zip(grads, needs_weights, strict=True)]
    return grad_x, grad_weights, None, None, grad_bias, *(None,) * 5


_mixed.register_autograd(_derivative, setup_context=_keep)


def path_linear(
    x_NKC: Tensor,
    weights: Sequence[Tensor],
    degrees: tuple[int, ...],
    starts: tuple[tuple[int, ...], ...],
    matmul: str = "ieee",
    bias_SD: Tensor | None = None,
    species_N: Tensor | None = None,
) -> Tensor:
    """(N, M, D), as ``reference.path_linear``; differentiable as often as wanted.

    The blocks must not share rows of x. The output and the gradient of x run as ``matmul`` says and are bitwise the same in every
    run; the gradients of the weights and of the bias are made in torch.
    """
    return _affine(x_NKC, weights, (None, None), (bias_SD, species_N), (degrees, starts), matmul)


def species_path_linear(
    x_NKC: Tensor,
    weights: Sequence[Tensor],
    degrees: tuple[int, ...],
    starts: tuple[tuple[int, ...], ...],
    groups: SpeciesGroups,
    matmul: str = "ieee",
    bias_SD: Tensor | None = None,
) -> Tensor:
    """(N, M, D), as ``reference.species_path_linear``; see ``path_linear``."""
    return _affine(x_NKC, weights, (groups.order_N, groups.tiles_T3), (bias_SD, groups.species_N), (degrees, starts), matmul)


def _affine(
    x_NKC: Tensor,
    weights: Sequence[Tensor],
    tiles: tuple[Tensor | None, Tensor | None],
    bias: tuple[Tensor | None, Tensor | None],
    blocks: tuple[tuple[int, ...], tuple[tuple[int, ...], ...]],
    matmul: str,
) -> Tensor:
    assert matmul in MATMULS, f"{matmul!r} is none of {MATMULS}"
    if bias[0] is None:
        bias = (None, None)
    result: Tensor = _mixed(x_NKC, list(weights), *tiles, *bias, Layout.describe(*blocks), x_NKC.shape[1], False, matmul)
    return result
