"""The fused edge vectors: their contract under Triton's interpreter, or on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CONTRACT = Path(__file__).with_name("edge_vectors_contract.py")

if torch.cuda.is_available():
    pytest.register_assert_rewrite("kernels.edge_vectors_contract")
    from kernels.edge_vectors_contract import *  # noqa: F403


@pytest.mark.skipif(torch.cuda.is_available(), reason="the contract runs on the GPU instead")
def test_contract_under_the_interpreter() -> None:
    """In a process of its own, because triton has to be imported in its interpreting mode."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CONTRACT)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, cwd=CONTRACT.parents[2], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
