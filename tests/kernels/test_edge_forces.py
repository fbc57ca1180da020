"""The fused assembly of forces: its contract under Triton's interpreter, and full sizes on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

CONTRACT = Path(__file__).with_name("edge_forces_contract.py")

if torch.cuda.is_available():
    pytest.register_assert_rewrite("kernels.edge_forces_contract")
    from kernels import edge_forces_contract as contract
    from kernels.edge_forces_contract import *  # noqa: F403

gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the contract runs on the GPU instead")
def test_contract_under_the_interpreter() -> None:
    """In a process of its own, because triton has to be imported in its interpreting mode."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CONTRACT)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, cwd=CONTRACT.parents[2], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


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
