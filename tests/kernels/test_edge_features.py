"""The fused edge features at full size on a GPU."""

import pytest
import torch
from torch import Tensor

from mosso import kernels

if torch.cuda.is_available():
    pytest.register_assert_rewrite("kernels.edge_features_contract")
    from kernels import edge_features_contract as contract

gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.mark.parametrize("max_ell", [pytest.param(ell, marks=gpu) for ell in (3, 4)])
def test_full_size(max_ell: int) -> None:
    contract.check(contract.vectors_of(158_000), max_ell)


@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=gpu)])
def test_captured_in_a_cuda_graph(implementation: str) -> None:
    vectors = contract.vectors_of(300).requires_grad_()

    def run() -> list[Tensor]:
        features, rows = kernels.edge_features(vectors, 3, contract.R_MAX, contract.INTERVALS, torch.float32, implementation=implementation)
        return [features, rows, *torch.autograd.grad(features.square().sum(), vectors)]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        vectors.mul_(0.5)
    graph.replay()
    for got, want in zip(captured, run(), strict=True):
        assert torch.equal(got, want)
