"""Counter-based normal random numbers in plain torch: the specification of fused/noise.py.

There is no generator state: a number depends on seed, index, step and stream alone, on any device. The generator is
Philox4x32-10 (Salmon et al., SC'11, doi:10.1145/2063384.2063405).
"""

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter_4N: Tensor, key_2N: Tensor) -> Tensor:
    """(4, N) int64, each 32 random bits: Philox4x32-10 of a counter of four and a key of two 32-bit words.

    64-bit products wrap in int64; shift and mask take the right bits whatever the sign.
    """
    multipliers_21 = torch.stack([torch.full_like(key_2N[0, :1], m) for m in _MULTIPLIERS])
    weyl_21 = torch.stack([torch.full_like(key_2N[0, :1], w) for w in _WEYL])
    even_2N, odd_2N = counter_4N[0::2], counter_4N[1::2]
    for _ in range(_ROUNDS):
        product_2N = multipliers_21 * even_2N
        high_2N, low_2N = (product_2N >> 32) & _MASK, product_2N & _MASK
        even_2N, odd_2N = high_2N.flip(0) ^ odd_2N ^ key_2N, low_2N.flip(0)
        key_2N = (key_2N + weyl_21) & _MASK
    return torch.stack([even_2N[0], odd_2N[0], even_2N[1], odd_2N[1]])


def gaussian(seeds_N: Tensor, index_N: Tensor, step: Tensor, stream: int) -> Tensor:
    """(N, 3) float64 independent standard normals.

    Args:
        seeds_N: (N,) int64, the seed of each row.
        index_N: (N,) int64, index of each row within its system, below 2^32.
        step: () int64.
        stream: which use the noise is for; streams are independent.

    Box-Muller on 32-bit uniforms, hence at most 6.8 standard deviations.
    """
    key_2N = torch.stack([seeds_N & _MASK, (seeds_N >> 32) & _MASK])
    step_N = step.expand_as(index_N)
    counter_4N = torch.stack([index_N, torch.full_like(index_N, stream), step_N & _MASK, (step_N >> 32) & _MASK])
    uniform_4N = (philox(counter_4N, key_2N).to(torch.float64) + 0.5) * 2.0**-32
    radius_2N = torch.sqrt(-2.0 * torch.log(uniform_4N[:2]))
    angle_2N = (2.0 * math.pi) * uniform_4N[2:]
    first_2N = radius_2N * torch.cos(angle_2N)
    third_N = radius_2N[0] * torch.sin(angle_2N[0])
    return torch.stack([first_2N[0], first_2N[1], third_N], dim=1)
