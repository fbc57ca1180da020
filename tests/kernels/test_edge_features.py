"""The fused edge features at full size on a GPU."""

import pytest
import torch
from kernels.contract import CUDA, check_replay, gpu
from torch import Tensor

from mosso import kernels

if CUDA:
    from kernels import edge_features_contract as contract

pytestmark = gpu


@pytest.mark.parametrize("max_ell", [3, 4])
def test_full_size(max_ell: int) -> None:
    contract.check_features(contract.vectors_of(158_000), max_ell)


def test_captured_in_a_cuda_graph() -> None:
    vectors = contract.vectors_of(300).requires_grad_()

    def run() -> list[Tensor]:
        features, rows = kernels.edge_features(vectors, 3, contract.R_MAX, contract.INTERVALS, torch.float32, implementation="triton")
        return [features, rows, *torch.autograd.grad(features.square().sum(), vectors)]

    check_replay(run, [vectors])
