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


def max_segments(values: Tensor, counts_B: Tensor) -> Tensor:
    """(B, ...) largest of consecutive rows of non-negative numbers, zero for none; NaN stays NaN."""
    return torch.segment_reduce(values, "max", lengths=counts_B, axis=0, unsafe=True, initial=0)
