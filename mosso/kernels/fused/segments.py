# mypy: disallow-untyped-defs=False
"""Sums and maxima over consecutive rows in Triton: one program per segment, so additions have an order of their own in any batch."""

import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT
from mosso.kernels.fused.launch import ceil_div, launch, register

ROWS = 256  # read at a time by a program, and kept apart until the end


@triton.jit
def first_row(counts, segment, BLOCK: tl.constexpr):
    """Rows of the segments before this one."""
    total = tl.zeros((BLOCK,), tl.int64)
    for first in range(0, segment, BLOCK):
        other = first + tl.arange(0, BLOCK)
        total += tl.load(counts + other, mask=other < segment, other=0)
    return tl.sum(total, axis=0)


@triton.jit
def _reduce(values, counts, out, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, MAXIMUM: tl.constexpr):
    segment = tl.program_id(0)
    first = first_row(counts, segment, 256)
    count = tl.load(counts + segment)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), out.dtype.element_ty)
    strange = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, count, ROWS):
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
    tl.store(out + segment.to(tl.int64) * WIDTH + column, result, mask=column < WIDTH)


def _fake(values, counts, maximum, fingerprint):
    return values.new_empty(counts.shape[0], *values.shape[1:])


@register("reduce_segments", _fake)
def _forward(values: Tensor, counts: Tensor, maximum: bool, fingerprint: str) -> Tensor:
    """(B, ...)."""
    out = values.new_empty(counts.shape[0], *values.shape[1:])
    width = out[0].numel() if counts.shape[0] else 0
    if width:
        columns = min(triton.next_power_of_2(width), 16)
        sizes = {"WIDTH": width, "COLUMNS": columns, "ROWS": ROWS, "MAXIMUM": maximum, "num_warps": 8}
        launch(_reduce, (counts.shape[0], ceil_div(width, columns)), values.contiguous(), counts.contiguous(), out, **sizes)
    return out


def reduce_segments(values: Tensor, counts_B: Tensor, maximum: bool) -> Tensor:
    """(B, ...) as ``reference.sum_segments`` or ``max_segments``; not differentiable."""
    result: Tensor = _forward(values, counts_B, maximum, FINGERPRINT)
    return result
