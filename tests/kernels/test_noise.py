"""Normal random numbers in Triton: their contract under Triton's interpreter, and on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mosso.kernels import gaussian

pytest.importorskip("triton")

CONTRACT = Path(__file__).with_name("noise_contract.py")
ON_GPU = torch.cuda.is_available()

if ON_GPU:
    pytest.register_assert_rewrite("kernels.noise_contract")
    from kernels.noise_contract import *  # noqa: F403

pytestmark = [pytest.mark.gpu] if ON_GPU else []


@pytest.mark.skipif(ON_GPU, reason="the contract runs on the GPU instead")
def test_contract_under_the_interpreter() -> None:
    """In a process of its own, because triton has to be imported in its interpreting mode."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CONTRACT)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, cwd=CONTRACT.parents[2], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.skipif(ON_GPU, reason="there is a CUDA device")
def test_refuses_the_cpu() -> None:
    with pytest.raises(ValueError, match="triton implementation of gaussian cannot run here"):
        gaussian(torch.zeros(2, dtype=torch.int64), torch.arange(2), torch.tensor(0), 0, "triton")
