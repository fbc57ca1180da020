# mypy: disallow-untyped-defs=False
"""Sums and maxima over consecutive rows in Triton: chunks of a segment side by side, then one after the other, so that additions
have an order of their own in any batch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT
from mosso.kernels.fused.launch import ceil_div, launch, register
from mosso.kernels.fused.overlap import await_inputs

ROWS = 256  # read at a time by a program, and kept apart until the end
CHUNK = 8192  # rows of a segment that one program adds up


@triton.jit
def first_row(counts, segment, BLOCK: tl.constexpr):
    """Rows of the segments before this one."""
    total = tl.zeros((BLOCK,), tl.int64)
    for first in range(0, segment, BLOCK):
        other = first + tl.arange(0, BLOCK)
        total += tl.load(counts + other, mask=other < segment, other=0)
    return tl.sum(total, axis=0)


@triton.jit
def _reduce(
    values, counts, out, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, MAXIMUM: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):  # fmt: skip
    """What a chunk of a segment's rows adds up to; out is (chunks, segments, WIDTH)."""
    await_inputs(OVERLAPS)
    segment, chunk = tl.program_id(0), tl.program_id(2)
    first = first_row(counts, segment, 256)
    count = tl.minimum(tl.load(counts + segment), (chunk + 1) * CHUNK)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), out.dtype.element_ty)
    strange = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(chunk * CHUNK, count, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < count)[:, None] & (column < WIDTH)[None, :]
        value = tl.load(values + (first + row)[:, None] * WIDTH + column[None, :], mask=inside, other=0.0)
        if MAXIMUM:
            total = tl.where(value > total, value, total)
            strange = tl.where(value != value, 1, strange)
        else:
            total += value
    result = tl.max(total, axis=0) if MAXIMUM else tl.sum(total, axis=0)
    if MAXIMUM:
        result = tl.where(tl.max(strange, axis=0) > 0, float("nan"), result)
    place = chunk.to(tl.int64) * tl.num_programs(0) + segment
    tl.store(out + place * WIDTH + column, result, mask=column < WIDTH)


@triton.jit
def _join(parts, out, num_values, num_chunks, BLOCK: tl.constexpr, MAXIMUM: tl.constexpr, OVERLAPS: tl.constexpr = False):
    """What chunks add up to, one after the other: those behind a segment's end are zero and change no bit."""
    await_inputs(OVERLAPS)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_values
    total = tl.load(parts + at, mask=inside, other=0.0)
    here = at
    for _ in range(1, num_chunks):
        here += num_values
        value = tl.load(parts + here, mask=inside, other=0.0)
        if MAXIMUM:
            total = tl.where((value > total) | (value != value), value, total)
        else:
            total += value
    tl.store(out + at, total, mask=inside)


def num_chunks(num_rows: int) -> int:
    """How many programs share a segment, which may hold all rows."""
    return max(ceil_div(num_rows, CHUNK), 1)


def join(parts: Tensor, maximum: bool) -> Tensor:
    """(B, ...) of (chunks, B, ...)."""
    if parts.shape[0] == 1:
        return parts[0]
    out = torch.empty_like(parts[0])
    if out.numel():
        sizes = {"BLOCK": 128, "MAXIMUM": maximum}
        launch(_join, (ceil_div(out.numel(), 128),), parts, out, out.numel(), parts.shape[0], **sizes)
    return out


def _fake(values, counts, maximum, fingerprint):
    return values.new_empty(counts.shape[0], *values.shape[1:])


@register("reduce_segments", _fake)
def _forward(values: Tensor, counts: Tensor, maximum: bool, fingerprint: str) -> Tensor:
    """(B, ...)."""
    chunks = num_chunks(values.shape[0])
    parts = values.new_empty(chunks, counts.shape[0], *values.shape[1:])
    width = parts[0, 0].numel() if counts.shape[0] else 0
    if width:
        columns = min(triton.next_power_of_2(width), 16)
        sizes = {"WIDTH": width, "COLUMNS": columns, "ROWS": ROWS, "CHUNK": CHUNK, "MAXIMUM": maximum, "num_warps": 8}
        launch(_reduce, (counts.shape[0], ceil_div(width, columns), chunks), values.contiguous(), counts.contiguous(), parts, **sizes)
    return join(parts, maximum)


def reduce_segments(values: Tensor, counts_B: Tensor, maximum: bool) -> Tensor:
    """(B, ...) as ``reference.sum_segments`` or ``max_segments``; not differentiable."""
    result: Tensor = _forward(values, counts_B, maximum, FINGERPRINT)
    return result
