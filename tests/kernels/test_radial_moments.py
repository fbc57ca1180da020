"""The fused radial moments at full size on a GPU."""

import pytest
import torch
from kernels.contract import CUDA, check_replay, gpu
from torch import Tensor

if CUDA:
    from kernels import radial_moments_contract as contract

pytestmark = gpu


@pytest.mark.parametrize("num_species", [1, 4])
def test_full_size(num_species: int) -> None:
    """The first layer of a small MACE on 1000 atoms of diamond."""
    contract.check_moments(contract.make_case(1000, 158_000, num_species, 64, padding=2000))


def test_captured_in_a_cuda_graph() -> None:
    case = contract.make_case(20, 300, 2, 64, padding=40)
    case = case._replace(table=case.table.float())
    features = case.features.float().requires_grad_()

    def run() -> list[Tensor]:
        out = case.op(features)
        return [out, *torch.autograd.grad(out.square().sum(), features)]

    check_replay(run, [features])
