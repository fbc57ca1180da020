# mypy: disallow-untyped-defs=False
"""The order in which edges of a receiver are visited, in Triton: by row of the table, found by counting.

Programs of a receiver compare every pair of its edges; the place of an edge is the number of those that come before it.
Quadratic in the number of neighbours, but a receiver has about a hundred, and nothing is read twice from far away.
"""

import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT
from mosso.kernels.fused.launch import launch, register
from mosso.kernels.fused.overlap import await_inputs

BLOCK = 32  # edges whose places are counted together, against as many at a time
PROGRAMS = 4  # that share a receiver


@triton.jit
def _place(
    rows,
    senders,
    receiver_offsets,
    order,
    senders_out,
    rows_out,
    BLOCK: tl.constexpr,
    PROGRAMS: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    await_inputs(OVERLAPS)
    node = tl.program_id(0).to(tl.int64)
    start = tl.load(receiver_offsets + node)
    end = tl.load(receiver_offsets + node + 1)
    for first in range(start + tl.program_id(1) * BLOCK, end, PROGRAMS * BLOCK):
        edge = first + tl.arange(0, BLOCK)
        inside = edge < end
        row = tl.load(rows + edge, mask=inside, other=0)
        place = tl.zeros((BLOCK,), tl.int32)
        for other in range(start, end, BLOCK):
            against = other + tl.arange(0, BLOCK)
            against_row = tl.load(rows + against, mask=against < end, other=2147483647)
            before = (against_row[None, :] < row[:, None]) | ((against_row[None, :] == row[:, None]) & (against[None, :] < edge[:, None]))
            place += tl.sum(before.to(tl.int32), axis=1)
        slot = start + place
        tl.store(order + slot, edge.to(tl.int32), mask=inside)
        tl.store(senders_out + slot, tl.load(senders + edge, mask=inside, other=0), mask=inside)
        tl.store(rows_out + slot, row, mask=inside)


def _fake(rows, senders, receiver_offsets, fingerprint):
    return rows.new_empty(rows.shape), senders.new_empty(senders.shape), rows.new_empty(rows.shape)


@register("visiting_order", _fake)
def _forward(rows: Tensor, senders: Tensor, receiver_offsets: Tensor, fingerprint: str) -> tuple[Tensor, Tensor, Tensor]:
    """(E,) int32 edges, (E,) int64 their senders and (E,) int32 their rows, in the order of visits."""
    order, senders_out, rows_out = rows.new_empty(rows.shape), senders.new_empty(senders.shape), rows.new_empty(rows.shape)
    num_nodes = receiver_offsets.shape[0] - 1
    if num_nodes:
        arrays = (rows.contiguous(), senders.contiguous(), receiver_offsets.contiguous(), order, senders_out, rows_out)
        launch(_place, (num_nodes, PROGRAMS), *arrays, BLOCK=BLOCK, PROGRAMS=PROGRAMS, num_warps=1)
    return order, senders_out, rows_out


def visiting_order(rows_E: Tensor, senders_E: Tensor, receiver_offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As ``reference.visiting_order``."""
    result: tuple[Tensor, Tensor, Tensor] = _forward(rows_E, senders_E, receiver_offsets, FINGERPRINT)
    return result
