"""The contract of every Triton op: under the interpreter where there is no GPU, on the GPU where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CONTRACTS = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*_contract.py"))
CUDA = torch.cuda.is_available()
WHERE = [
    pytest.param("1", id="interpreter", marks=pytest.mark.skipif(CUDA, reason="the contract runs on the GPU instead")),
    pytest.param("0", id="gpu", marks=(pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="no CUDA device"))),
]


@pytest.mark.parametrize("interpret", WHERE)
@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda path: path.stem)
def test_contract(contract: Path, interpret: str) -> None:
    """In a process of its own, because triton has to be imported in its interpreting mode, or not to have been."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(contract)]
    environment = os.environ | {"TRITON_INTERPRET": interpret}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
