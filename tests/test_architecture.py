"""The house rules that a machine can check: arrows, rooms, edges of the package, file sizes."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mosso"
FILES = sorted(p for p in PACKAGE.rglob("*.py") if "peers" not in p.parts)


def imports_of(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def test_imports_point_down() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ase_stays_at_the_edges() -> None:
    allowed = {"data/readers.py", "data/writers.py", "interfaces/ase.py"}
    users = {str(p.relative_to(PACKAGE)) for p in FILES if "ase" in imports_of(p)}
    assert users <= allowed, f"ase is imported by {sorted(users - allowed)}"


def test_no_dumping_grounds() -> None:
    rooms = {p.name.removesuffix(".py") for p in PACKAGE.rglob("*")}
    assert not rooms & {"utils", "common", "misc", "helpers", "tools"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= (600 if "kernels" in path.parts else 400)


def test_no_global_precision_switches() -> None:
    pattern = re.compile(r"set_default_dtype|set_float32_matmul_precision|allow_tf32\s*=[^=]")
    offenders = [p.name for p in FILES if pattern.search(p.read_text())]
    assert not offenders


def test_public_face_is_small() -> None:
    assert len((PACKAGE / "__init__.py").read_text().splitlines()) <= 40
    import mosso

    for name in mosso.__all__:
        assert getattr(mosso, name) is not None


def test_the_command_line_does_not_import_torch() -> None:
    code = "import sys, mosso.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


EVALUATION = """
import sys

from triton.runtime.jit import JITFunction

import mosso
from mosso import kernels
from mosso.kernels import dispatch
from mosso.kernels.fused import symmetric_contraction
from mosso.models.tabulated_mace import TabulatedMACE

launched = []
JITFunction.run = lambda kernel, *arguments, **options: launched.append(kernel)
kernels.preferred = dispatch.preferred = lambda op, device: "triton"
dispatch.triton_obstacle = symmetric_contraction.why_not = lambda *tensors: None

potential = mosso.load("mosso-xtb-s", device="cpu", precision="fp32")
positions = [[0.0, 0.0, 0.1], [0.8, 0.0, 0.7], [-0.8, 0.0, 0.7]]
water = mosso.Structure([8, 1, 1], positions, [[8.0, 0.0, 0.0], [0.0, 8.0, 0.0], [0.0, 0.0, 8.0]], [True] * 3)
potential(water, stress=True)
assert isinstance(potential.evaluator, TabulatedMACE) and launched
found = sorted({"torch._dynamo", "torch._inductor", "torch._higher_order_ops.triton_kernel_wrap", "sympy"} & set(sys.modules))
sys.exit(", ".join(found) or 0)
"""


def test_an_evaluation_does_not_import_the_compiler_of_torch() -> None:
    """It takes seconds. The path is that of a GPU, but for the recording of a CUDA graph; kernels compute nothing."""
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    result = subprocess.run([sys.executable, "-c", EVALUATION], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_what_stands_for_a_decorator_of_the_compiler_is_what_it_does() -> None:
    import torch

    from mosso.kernels import dispatch

    assert vars(torch.compiler.assume_constant_result(lambda: None)) == vars(dispatch._device_obstacle)
