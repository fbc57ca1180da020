"""What the Triton visiting order promises: the order of the reference, wherever there is an edge."""

import pytest
import torch
from kernels.contract import DEVICE

from mosso import kernels
from mosso.kernels import reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("counts", [[3, 0, 70, 1], [130, 64, 65], [0], [], [200]])
@pytest.mark.parametrize("num_rows", [1, 5, 1000])
def test_equal_to_the_reference(counts: list[int], num_rows: int) -> None:
    generator = torch.Generator().manual_seed(sum(counts) + num_rows)
    offsets = torch.tensor([0, *counts]).cumsum(0).to(DEVICE)
    num_edges = sum(counts)
    rows = torch.randint(num_rows, (num_edges + 3,), generator=generator).to(DEVICE, torch.int32)
    senders = torch.randint(50, (num_edges + 3,), generator=generator).to(DEVICE)
    got = kernels.visiting_order(rows, senders, offsets, implementation="triton")
    want = reference.visiting_order(rows[:num_edges], senders[:num_edges], offsets)
    for found, expected in zip(got, want, strict=True):
        assert torch.equal(found[:num_edges], expected)
        assert found.dtype == expected.dtype
