"""The fused assembly of forces at full size on a GPU."""

import pytest
import torch
from torch import Tensor

if torch.cuda.is_available():
    pytest.register_assert_rewrite("kernels.edge_forces_contract")
    from kernels import edge_forces_contract as contract

gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.mark.parametrize("dtype", [pytest.param(torch.float64, marks=gpu)])
def test_full_size(dtype: torch.dtype) -> None:
    contract.check(contract.make_case(1000, 158_000, padding=2000), (dtype,))


@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=gpu)])
def test_captured_in_a_cuda_graph(implementation: str) -> None:
    case = contract.make_case(20, 3000, padding=40)

    def run() -> list[Tensor]:
        return case.run(implementation, torch.float64)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    case.gradient.mul_(0.5)
    graph.replay()
    for got, want in zip(captured, run(), strict=True):
        assert torch.equal(got, want)
