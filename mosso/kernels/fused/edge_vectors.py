# mypy: disallow-untyped-defs=False
"""Edge vectors in Triton: positions, shifts and cells gathered in one kernel, one thread per edge, in float64.

Fused multiply-adds are switched off, so that an edge is as long as the plain sum of the reference says, to the last bit:
which pairs are neighbours is decided by that length elsewhere.
"""

import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT
from mosso.kernels.fused.launch import ceil_div, launch, register
from mosso.kernels.fused.overlap import await_inputs

BLOCK = 128  # edges of a program


@triton.jit
def _vectors(
    positions, cells, systems, senders, receivers, shifts, receiver_offsets, out, num_nodes, num_edges,
    CUTOFF: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr = False,
):  # fmt: skip
    await_inputs(OVERLAPS)
    edge = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = edge < num_edges
    real = edge < tl.load(receiver_offsets + num_nodes)
    sender = tl.load(senders + edge, mask=real, other=0)
    receiver = tl.load(receivers + edge, mask=real, other=0)
    cell = cells + 9 * tl.load(systems + receiver, mask=real, other=0)
    a = tl.load(shifts + 3 * edge, mask=real, other=0).to(tl.float64)
    b = tl.load(shifts + 3 * edge + 1, mask=real, other=0).to(tl.float64)
    c = tl.load(shifts + 3 * edge + 2, mask=real, other=0).to(tl.float64)
    for axis in tl.static_range(3):
        translation = a * tl.load(cell + axis, mask=real, other=0.0)
        translation = translation + b * tl.load(cell + 3 + axis, mask=real, other=0.0)
        translation = translation + c * tl.load(cell + 6 + axis, mask=real, other=0.0)
        there = tl.load(positions + 3 * receiver + axis, mask=real, other=0.0)
        here = tl.load(positions + 3 * sender + axis, mask=real, other=0.0)
        padding = CUTOFF if axis == 0 else 0.0
        tl.store(out + 3 * edge + axis, tl.where(real, there - here + translation, padding), mask=inside)


def _fake(positions, cells, systems, senders, receivers, shifts, receiver_offsets, cutoff, fingerprint):
    return positions.new_empty(senders.shape[0], 3)


@register("edge_vectors", _fake)
def _forward(
    positions: Tensor,
    cells: Tensor,
    systems: Tensor,
    senders: Tensor,
    receivers: Tensor,
    shifts: Tensor,
    receiver_offsets: Tensor,
    cutoff: float,
    fingerprint: str,
) -> Tensor:
    """(E, 3)."""
    num_edges = senders.shape[0]
    out = positions.new_empty(num_edges, 3)
    tensors = (positions, cells, systems, senders, receivers, shifts, receiver_offsets)
    if num_edges:
        launch(
            _vectors, (ceil_div(num_edges, BLOCK),), *(tensor.contiguous() for tensor in tensors), out, positions.shape[0], num_edges,
            CUTOFF=cutoff, BLOCK=BLOCK, num_warps=BLOCK // 32, enable_fp_fusion=False,
        )  # fmt: skip
    return out


def edge_vectors(
    positions_N3: Tensor,
    cell_B33: Tensor,
    system_N: Tensor,
    senders_E: Tensor,
    receivers_E: Tensor,
    shifts_E3: Tensor,
    receiver_offsets: Tensor,
    cutoff: float,
) -> Tensor:
    """(E, 3) as ``reference.edge_vectors``; not differentiable."""
    result: Tensor = _forward(positions_N3, cell_B33, system_N, senders_E, receivers_E, shifts_E3, receiver_offsets, cutoff, FINGERPRINT)
    return result
