# mypy: disallow-untyped-defs=False
"""Sums over what the backward kernels of the edge convolutions write per edge; deterministic, no atomics."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused.launch import ceil_div, launch
from mosso.kernels.fused.overlap import await_inputs

# Fewer senders than this do not fill an H200 with programs of 8 rows under way.
MANY_NODES = 512


@triton.jit
def _sum_rows(
    rows, transpose, start, end, first_edge, column, NUMBER: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
):
    """(BLOCK,) sum of the rows (.., WIDTH) of the edges transpose[start:end], ROWS under way at a time; row 0 is ``first_edge``."""
    total = tl.zeros((ROWS, BLOCK), NUMBER)
    for first in range(start, end, ROWS):
        slot = first + tl.arange(0, ROWS)
        row = tl.load(transpose + slot, mask=slot < end, other=first_edge) - first_edge
        inside = (slot < end)[:, None] & (column < WIDTH)[None, :]
        total += tl.load(rows + row[:, None] * WIDTH + column[None, :], mask=inside, other=0.0).to(NUMBER)
    return tl.sum(total, axis=0)


@triton.jit
def sum_outgoing(
    grad_edges, transpose, starts, ends, out, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, OVERLAPS: tl.constexpr = False
):
    """out[n] = sum of the (E, WIDTH) rows of the edges that leave n."""
    await_inputs(OVERLAPS)
    node = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(starts + node)
    end = tl.load(ends + node)
    total = _sum_rows(grad_edges, transpose, start, end, 0, column, out.dtype.element_ty, WIDTH, BLOCK, ROWS)
    tl.store(out + node * WIDTH + column, total, mask=column < WIDTH)


@triton.jit
def add_outgoing(
    grad_edges,
    transpose,
    starts,
    ends,
    out,
    first_edge,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """out[n] += the same over the edges transpose[starts[n]:ends[n]] alone; row 0 of ``grad_edges`` is ``first_edge``."""
    await_inputs(OVERLAPS)
    node = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(starts + node)
    end = tl.load(ends + node)
    if start < end:
        at = out + node * WIDTH + column
        before = tl.load(at, mask=column < WIDTH, other=0.0)
        total = _sum_rows(grad_edges, transpose, start, end, first_edge, column, out.dtype.element_ty, WIDTH, BLOCK, ROWS)
        tl.store(at, before + total, mask=column < WIDTH)


@triton.jit
def _cut(transpose, sender_offsets, places, num_nodes, most, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr = False):
    """places[c, n] = where in the edges that leave n, ascending in the transpose, those from ``c * most`` on begin."""
    await_inputs(OVERLAPS)
    node = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    chunk = tl.program_id(1).to(tl.int64)
    inside = node < num_nodes
    start = tl.load(sender_offsets + node, mask=inside, other=0)
    end = tl.load(sender_offsets + node + 1, mask=inside, other=0)
    while tl.max(end - start, 0) > 0:
        middle = (start + end) // 2
        below = (tl.load(transpose + middle, mask=start < end, other=0) < chunk * most) & (start < end)
        start, end = tl.where(below, middle + 1, start), tl.where(below, end, middle)
    tl.store(places + chunk * num_nodes + node, start, mask=inside)


@triton.jit
def sum_parts(
    parts,
    receiver_offsets,
    out,
    num_nodes,
    first_edge,
    last_edge,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Rows first_edge:last_edge of out (E, WIDTH) = sum of the parts (PARTS, last_edge - first_edge, WIDTH).

    Zero for padding edges, whose parts nobody wrote.
    """
    await_inputs(OVERLAPS)
    first = tl.cast(first_edge, tl.int64) * WIDTH
    size = tl.cast(last_edge, tl.int64) * WIDTH - first
    end = tl.load(receiver_offsets + num_nodes) * WIDTH - first
    element = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), out.dtype.element_ty)
    for part in tl.static_range(PARTS):
        total += tl.load(parts + part * size + element, mask=(element < end) & (element < size), other=0.0)
    tl.store(out + first + element, total, mask=element < size)


@triton.jit
def zero_padding(
    receiver_offsets,
    out,
    num_nodes,
    num_edges,
    PROGRAMS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Zeros in the rows of (E, WIDTH) behind the last real edge; how many there are is known on the device only."""
    await_inputs(OVERLAPS)
    first = tl.load(receiver_offsets + num_nodes) * WIDTH + tl.program_id(0) * BLOCK
    size = tl.cast(num_edges, tl.int64) * WIDTH
    for start in range(first, size, PROGRAMS * BLOCK):
        element = start + tl.arange(0, BLOCK)
        tl.store(out + element, tl.zeros((BLOCK,), out.dtype.element_ty), mask=element < size)


def cut_by_sender(transpose: Tensor, sender_offsets: Tensor, num_chunks: int, most: int) -> Tensor:
    """(num_chunks + 1, N) places in the transpose: the edges that leave n and are in chunk c, from edge ``c * most`` on, stand at
    [c, n] to [c + 1, n]."""
    num_nodes = sender_offsets.shape[0] - 1
    places = sender_offsets.new_empty(num_chunks + 1, num_nodes)
    launch(_cut, (ceil_div(num_nodes, 128), num_chunks + 1), transpose, sender_offsets, places, num_nodes, most, BLOCK=128, num_warps=4)
    return places


def over_senders(
    grad_edges: Tensor, transpose: Tensor, places: tuple[Tensor, Tensor], out: Tensor, width: int, first_edge: int | None
) -> None:
    """out (N, ..) = rows of ``width`` numbers summed over edges that leave an atom, or += where ``grad_edges`` holds a chunk of
    edges, from ``first_edge`` on; ``places``: where those of each atom start and end in the transpose.

    Cut by times on an H200. Programs of a chunk are wide, because few of their rows are in it.
    """
    num_nodes = places[0].shape[0]
    block = 128 if first_edge is None else min(512, max(128, triton.next_power_of_2(width)))
    sizes: dict[str, Any] = {"WIDTH": width, "BLOCK": block, "ROWS": 8 if num_nodes >= MANY_NODES else 16, "num_warps": 4}
    arrays, grid = (grad_edges, transpose, *places, out), (num_nodes, ceil_div(width, block))
    if first_edge is None:
        launch(sum_outgoing, grid, *arrays, **sizes)
    else:
        launch(add_outgoing, grid, *arrays, first_edge, **sizes)
