"""Every kernel waits for the one before it, first of all: one that did not would read what is not written yet, now and then."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from mosso.kernels import fused
from mosso.kernels.fused import edge_convolution_source, edge_features_source, launch, symmetric_contraction_source
from mosso.math.coupling import contraction_table, convolution_paths, symmetric_coupling

FOLDER = Path(fused.__file__).parent
WAIT = "await_inputs(OVERLAPS)"


def generated() -> list[str]:
    """Sources that are written for a table, one of each kind."""
    paths = convolution_paths((0, 1), 1)
    table = edge_convolution_source.PathTable.parse(edge_convolution_source.PathTable.describe((0, 1), paths), 4)
    weights = (edge_convolution_source.STORED, edge_convolution_source.Tabulated())
    found = [edge_convolution_source.source(d, table, 1, 100, weights=w) for d in ("forward", "backward") for w in weights]
    found.append(edge_convolution_source.source("backward", table, 1, 100, weights=weights[1], chunked=True))
    found += [edge_features_source.source(direction, 1) for direction in ("forward", "backward")]
    contraction = symmetric_contraction_source
    polynomial = contraction.Polynomial.parse(contraction_table([[symmetric_coupling(1, 0, nu) for nu in (1, 2)]]).text)
    found += [contraction.forward_source(polynomial)]
    found += [make(polynomial, rates) for make in (contraction.gradient_source, contraction.coefficients_source) for rates in (False, True)]
    return found


def first_lines(source: str) -> dict[str, str]:
    """The first statement after the docstring of every kernel that has the argument OVERLAPS."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name != "await_inputs" and any(a.arg == "OVERLAPS" for a in node.args.args):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            found[node.name] = ast.unparse(body[0])
    return found


def test_kernels_wait_first_of_all() -> None:
    """``launch`` takes only those that can be told to."""
    written = {f"{path.name}: {name}": line for path in FOLDER.glob("*.py") for name, line in first_lines(path.read_text()).items()}
    assert len(written) > 25
    assert {name: line for name, line in written.items() if line != WAIT} == {}


def test_generated_kernels_wait_first_of_all() -> None:
    for source in generated():
        assert list(first_lines(source).values()) == [WAIT], source[:200]


def test_a_kernel_that_cannot_wait_is_not_launched() -> None:
    class Kernel:
        arg_names = ("x", "BLOCK")

    with pytest.raises(AssertionError, match="does not await its inputs"):
        launch.launch(Kernel(), (1,), None)


class Noted:
    """Stands in for a kernel; notes what is done with it."""

    arg_names = ("x", "OVERLAPS")

    def __init__(self) -> None:
        self.calls: list[str] = []

    def warmup(self, *_: Any, **__: Any) -> None:
        self.calls.append("compiled")

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *_, **__: self.calls.append("run")


def test_kernels_are_compiled_and_not_run_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "INTERPRETED", False)
    monkeypatch.setattr(launch, "overlapping", lambda *_: {})
    kernel, x = Noted(), torch.ones(3, requires_grad=True)

    class Op(torch.autograd.Function):
        """Launches in the backward pass too, which on a GPU would have a thread of its own (tests/gpu/test_compiling.py)."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            launch.launch(kernel, (1,), x)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:
            launch.launch(kernel, (1,), g)
            return g

    with launch.compiled_together():
        torch.autograd.grad(Op.apply(x).sum(), x)
    assert kernel.calls == ["compiled", "compiled"]
    torch.autograd.grad(Op.apply(x).sum(), x)
    assert kernel.calls[2:] == ["run", "run"]


def test_what_no_kernel_has_written_is_zero_while_they_are_compiled() -> None:
    one = launch._zeros_unless_run(lambda: torch.full((2,), float("nan")))
    several = launch._zeros_unless_run(lambda: (torch.full((2,), 2**40), torch.empty(0)))
    with launch.compiled_together():
        assert one().tolist() == several()[0].tolist() == [0, 0]
    assert one().isnan().all() and several()[0].tolist() == [2**40] * 2


def test_a_failure_while_kernels_are_compiled_ends_that(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError), launch.compiled_together():
        raise ZeroDivisionError
    assert launch._COMPILED.get() is None
    with launch.compiled_together():
        pass
