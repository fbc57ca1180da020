"""Sums and maxima over rows."""

import torch
from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, num_rows: int) -> Tensor:
    """(num_rows, ...) sums of the values that share an index; rows nothing maps to are zero."""
    return values.new_zeros((num_rows, *values.shape[1:])).index_add(0, index, values)


def sum_segments(values: Tensor, counts_B: Tensor) -> Tensor:
    """(B, ...) sums of consecutive rows, counts_B[b] (int64) of them for each b.

    The order of additions depends on the segment alone: no atomics, the same bits in any batch.
    """
    return torch.segment_reduce(values, "sum", lengths=counts_B, axis=0, unsafe=True, initial=0)


def stress(virial_B33: Tensor, cell_B33: Tensor) -> Tensor:
    """(B, 3, 3) symmetric, tension positive: minus the virials over the volume, NaN where there is none.

    The volume is the triple product of the lattice vectors, which a CUDA graph can hold.
    """
    a_B3, b_B3, c_B3 = cell_B33.unbind(1)
    volume_B11 = (a_B3 * torch.linalg.cross(b_B3, c_B3)).sum(1).abs().view(-1, 1, 1)
    half_B33 = torch.where(volume_B11 > 0, -0.5 * virial_B33 / volume_B11, torch.nan)
    return half_B33 + half_B33.mT


def max_segments(values: Tensor, counts_B: Tensor) -> Tensor:
    """(B, ...) largest of consecutive rows of non-negative numbers, zero for none; NaN stays NaN."""
    return torch.segment_reduce(values, "max", lengths=counts_B, axis=0, unsafe=True, initial=0)
