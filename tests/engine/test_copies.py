"""Copies into and out of recordings; the graphs themselves are tested on the GPU."""

import torch

from mosso.engine.capture import copy_all


def test_all_types_are_copied_into_the_tensors_that_are_there() -> None:
    values = [torch.randn(3, 2), torch.tensor(7), torch.randn(4, dtype=torch.float64), torch.tensor([True, False]), torch.randn(2)]
    into = [torch.zeros_like(value) for value in values]
    places = [tensor.data_ptr() for tensor in into]
    copy_all(into, values)
    assert all(torch.equal(one, other) for one, other in zip(into, values, strict=True))
    assert places == [tensor.data_ptr() for tensor in into]
    copy_all([], [])
