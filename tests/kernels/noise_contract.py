"""The contract of the normal random numbers in Triton: on a CUDA device, or under Triton's interpreter on the CPU.

Started by test_contracts.py in a process of its own. The words of the generator have to be right to the
bit for a number to come near the reference at all, so a tight tolerance is proof.
"""

import pytest
import torch
from kernels.contract import DEVICE

from mosso.kernels import gaussian
from mosso.kernels.reference import noise

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.mark.parametrize("num_rows", [0, 1, 127, 128, 300])
@pytest.mark.parametrize("step", [0, 5, 2**32 - 1, 2**32 + 7, 2**40])
def test_numbers_are_those_of_the_reference(num_rows: int, step: int) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    seeds_N = torch.randint(-(2**62), 2**62, (num_rows,), generator=generator).to(DEVICE)
    index_N = torch.randint(0, 2**32, (num_rows,), generator=generator).to(DEVICE)
    now = torch.tensor(step, device=DEVICE)
    for stream in range(3):
        got = gaussian(seeds_N, index_N, now, stream, "triton")
        want = noise.gaussian(seeds_N, index_N, now, stream)
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-14)


def test_rows_do_not_depend_on_their_neighbours() -> None:
    seeds_N, index_N, now = torch.full((500,), 3, device=DEVICE), torch.arange(500, device=DEVICE), torch.tensor(9, device=DEVICE)
    whole = gaussian(seeds_N, index_N, now, 1, "triton")
    part = gaussian(seeds_N[200:400:2], index_N[200:400:2], now, 1, "triton")
    assert torch.equal(part, whole[200:400:2])
