"""The fused repulsion of nuclei at full size on a GPU."""

import torch
from kernels.contract import CUDA, check, check_replay, gpu

if CUDA:
    from kernels import repulsion_contract as contract

pytestmark = gpu


def test_full_size() -> None:
    check(contract.make_case(1000, 158_000, padding=2000, species=89).run, (torch.float64,), contract.FLOOR)


def test_captured_in_a_cuda_graph() -> None:
    case = contract.make_case(20, 3000, padding=40)
    check_replay(lambda: [case.energies(case.vectors, "triton")], [case.vectors])
