"""The fused radial moments at full size on a GPU."""

import pytest
import torch
from torch import Tensor

from mosso import kernels

if torch.cuda.is_available():
    pytest.register_assert_rewrite("kernels.radial_moments_contract")
    from kernels import radial_moments_contract as contract

gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.mark.parametrize("num_species", [pytest.param(z, marks=gpu) for z in (1, 4)])
def test_full_size(num_species: int) -> None:
    """The first layer of a small MACE on 1000 atoms of diamond."""
    contract.check(contract.make_case(1000, 158_000, num_species, 64, padding=2000))


@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=gpu)])
def test_captured_in_a_cuda_graph(implementation: str) -> None:
    case = contract.make_case(20, 300, 2, 64, padding=40)
    features, table = case.features.float().requires_grad_(), case.table.float()

    def run() -> list[Tensor]:
        out = kernels.radial_moments(features, case.rows, table, *case[3:], implementation=implementation)
        return [out, *torch.autograd.grad(out.square().sum(), features)]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        features.mul_(0.5)
    graph.replay()
    for got, want in zip(captured, run(), strict=True):
        assert torch.equal(got, want)
