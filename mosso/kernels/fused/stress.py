# mypy: disallow-untyped-defs=False
"""Stress from summed virials in Triton: one kernel of one program per system, where plain torch takes ten."""

import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT
from mosso.kernels.fused.launch import launch, register
from mosso.kernels.fused.overlap import await_inputs


@triton.jit
def _stress(virial, cell, out, OVERLAPS: tl.constexpr = False):
    await_inputs(OVERLAPS)
    system = tl.program_id(0).to(tl.int64) * 9
    cell += system
    ax, ay, az = tl.load(cell), tl.load(cell + 1), tl.load(cell + 2)
    bx, by, bz = tl.load(cell + 3), tl.load(cell + 4), tl.load(cell + 5)
    cx, cy, cz = tl.load(cell + 6), tl.load(cell + 7), tl.load(cell + 8)
    volume = tl.abs(ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx))
    slot = tl.arange(0, 16)
    live = slot < 9
    mirrored = slot % 3 * 3 + slot // 3
    both = tl.load(virial + system + slot, mask=live, other=0.0) + tl.load(virial + system + mirrored, mask=live, other=0.0)
    half = -0.5 * both / tl.where(volume > 0, volume, 1.0)
    tl.store(out + system + slot, tl.where(volume > 0, half, float("nan")), mask=live)


def _fake(virial, cell, fingerprint):
    return virial.new_empty(virial.shape)


@register("stress", _fake)
def _forward(virial: Tensor, cell: Tensor, fingerprint: str) -> Tensor:
    """(B, 3, 3)."""
    out = virial.new_empty(virial.shape)
    if virial.shape[0]:
        launch(_stress, (virial.shape[0],), virial.contiguous(), cell.contiguous(), out, num_warps=1)
    return out


def stress(virial_B33: Tensor, cell_B33: Tensor) -> Tensor:
    """(B, 3, 3) as ``reference.stress``; not differentiable."""
    result: Tensor = _forward(virial_B33, cell_B33, FINGERPRINT)
    return result
