"""What the Triton sums and maxima over consecutive rows promise: the reference's numbers, the same bits in any batch."""

import pytest
import torch
from kernels.contract import DEVICE

from mosso import kernels
from mosso.kernels import reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def rows(num_rows: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_rows + len(shape))
    return torch.randn(num_rows, *shape, dtype=torch.float64, generator=generator).to(DEVICE)


@pytest.mark.parametrize("shape", [(), (3,), (3, 3), (17,)])
@pytest.mark.parametrize("counts", [[5, 0, 300, 1], [257], [0], [], [1] * 40])
def test_equal_to_the_reference(counts: list[int], shape: tuple[int, ...]) -> None:
    values, counts_B = rows(sum(counts), *shape), torch.tensor(counts, dtype=torch.int64, device=DEVICE)
    got = kernels.sum_segments(values, counts_B, implementation="triton")
    torch.testing.assert_close(got, reference.sum_segments(values, counts_B), rtol=1e-13, atol=1e-13)
    got = kernels.max_segments(values.abs(), counts_B, implementation="triton")
    assert torch.equal(got, reference.max_segments(values.abs(), counts_B))


def test_many_segments_before_one() -> None:
    counts_B = torch.ones(300, dtype=torch.int64, device=DEVICE)
    values = rows(300)
    assert torch.equal(kernels.sum_segments(values, counts_B, implementation="triton"), values)


def test_a_segment_has_the_same_bits_in_any_batch() -> None:
    values = rows(700, 3)
    alone = kernels.sum_segments(values[100:], torch.tensor([600], device=DEVICE), implementation="triton")
    beside = kernels.sum_segments(values, torch.tensor([100, 600], device=DEVICE), implementation="triton")
    assert torch.equal(alone[0], beside[1])


def test_what_is_not_a_number_stays_so() -> None:
    values = rows(6).abs()
    values[4] = torch.nan
    got = kernels.max_segments(values, torch.tensor([3, 3], device=DEVICE), implementation="triton")
    assert torch.equal(got[0], values[:3].max())
    assert got[1].isnan()


@pytest.mark.parametrize("shape", [(), (3, 3)])
def test_segments_of_several_chunks(shape: tuple[int, ...]) -> None:
    counts = [9000, 3, 0, 17000]
    values, counts_B = rows(sum(counts), *shape), torch.tensor(counts, dtype=torch.int64, device=DEVICE)
    got = kernels.sum_segments(values, counts_B, implementation="triton")
    torch.testing.assert_close(got, reference.sum_segments(values, counts_B), rtol=1e-12, atol=1e-11)
    largest = kernels.max_segments(values.abs(), counts_B, implementation="triton")
    assert torch.equal(largest, reference.max_segments(values.abs(), counts_B))
    alone = kernels.sum_segments(values[:9000], counts_B[:1], implementation="triton")
    assert torch.equal(alone[0], got[0])
    values[8999 + 3 + 100] = torch.nan
    assert kernels.max_segments(values.abs(), counts_B, implementation="triton")[3].isnan().all()
