"""The fused readout at full size on a GPU."""

import torch
from kernels.contract import CUDA, check_replay, gpu

from mosso import kernels

if CUDA:
    from kernels import readout_contract as contract

pytestmark = gpu


def test_full_size() -> None:
    for hidden in (0, 16):
        contract.check_readout(contract.make_case(20_000, 4, 128, hidden))


def test_captured_in_a_cuda_graph() -> None:
    h, first, second = contract.make_case(100, 4, 128, 16)
    check_replay(lambda: [kernels.readout(h, first, second, implementation="triton")], [h])


def test_offsets_past_two_to_the_31() -> None:
    h, first, second = contract.make_case(1, 9, 128, 16)
    many = h.float().expand(2_000_000, 9, 128).contiguous()
    got = kernels.readout(many, first, second, implementation="triton")
    assert torch.equal(got, got[:1].expand_as(got))
