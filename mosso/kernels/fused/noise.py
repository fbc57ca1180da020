# mypy: disallow-untyped-defs=False
"""Counter-based normal random numbers in Triton: one kernel in place of more than a hundred; see reference/noise.py.

The words of Philox are those of the reference bit for bit; the normals differ where logarithm, sine and cosine do.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused.launch import ceil_div, launch
from mosso.kernels.fused.overlap import await_inputs

BLOCK = 128
_TURN = tl.constexpr(2.0 * math.pi)


@triton.jit
def _uniform(word):
    return (word.to(tl.float64) + 0.5) * (1.0 / 4294967296.0)


@triton.jit
def normals(seed, index, now, STREAM: tl.constexpr, BLOCK: tl.constexpr):
    """Three normal numbers (BLOCK,) of the seeds, indices and one step ``now`` of a stream."""
    stream = tl.full((BLOCK,), STREAM, tl.uint32)
    low = tl.full((BLOCK,), 0, tl.uint32) + now.to(tl.uint32)
    high = tl.full((BLOCK,), 0, tl.uint32) + (now >> 32).to(tl.uint32)
    a, b, c, d = tl.philox(seed, index.to(tl.uint32), stream, low, high)
    radius_0 = tl.sqrt(-2.0 * tl.log(_uniform(a)))
    radius_1 = tl.sqrt(-2.0 * tl.log(_uniform(b)))
    angle_0 = _uniform(c) * _TURN
    return radius_0 * tl.cos(angle_0), radius_1 * tl.cos(_uniform(d) * _TURN), radius_0 * tl.sin(angle_0)


@triton.jit
def _gaussian(seeds, index, step, out, num_rows, STREAM: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr = False):
    await_inputs(OVERLAPS)
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = row < num_rows
    seed, place = tl.load(seeds + row, mask=inside, other=0), tl.load(index + row, mask=inside, other=0)
    x, y, z = normals(seed, place, tl.load(step), STREAM, BLOCK)
    tl.store(out + row * 3, x, mask=inside)
    tl.store(out + row * 3 + 1, y, mask=inside)
    tl.store(out + row * 3 + 2, z, mask=inside)


def gaussian(seeds_N: Tensor, index_N: Tensor, step: Tensor, stream: int) -> Tensor:
    """(N, 3) float64: see ``reference.noise.gaussian``."""
    num_rows = len(index_N)
    normals_N3 = torch.empty(num_rows, 3, dtype=torch.float64, device=index_N.device)
    if num_rows:
        arrays = (seeds_N.contiguous(), index_N.contiguous(), step, normals_N3)
        launch(_gaussian, (ceil_div(num_rows, BLOCK),), *arrays, num_rows, STREAM=stream, BLOCK=BLOCK)
    return normals_N3
