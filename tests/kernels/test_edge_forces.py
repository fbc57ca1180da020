"""The fused assembly of forces at full size on a GPU."""

import torch
from kernels.contract import CUDA, check_replay, gpu

if CUDA:
    from kernels import edge_forces_contract as contract

pytestmark = gpu


def test_full_size() -> None:
    contract.check_forces(contract.make_case(1000, 158_000, padding=2000), (torch.float64,))


def test_captured_in_a_cuda_graph() -> None:
    case = contract.make_case(20, 3000, padding=40)
    check_replay(lambda: case.run("triton", torch.float64), [case.gradient])
