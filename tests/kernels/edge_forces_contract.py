"""The fused assembly of forces against its reference.

Runs on the GPU where there is one, else under Triton's interpreter, for which TRITON_INTERPRET has to be set before
anything imports triton: test_edge_forces.py starts it in a process of its own.
"""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mosso import kernels
from mosso.graph.graph import Graph
from mosso.kernels.fused import INTERPRETED
from mosso.kernels.fused import edge_forces as fused

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what the reference needs in deterministic mode
FLOOR = {torch.float32: 1e-6, torch.float64: 1e-14}  # relative to the largest number of the result
assert INTERPRETED is not CUDA, "set TRITON_INTERPRET=1 where there is no CUDA device, and only there"


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """New tensors start as NaN, so that a number nobody wrote cannot pass."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


class Case(NamedTuple):
    """Gradients and vectors in float64, and the edges."""

    gradient: Tensor
    vectors: Tensor
    receiver_offsets: Tensor
    transpose: Tensor
    sender_offsets: Tensor

    def run(self, implementation: str, dtype: torch.dtype, need_virial: bool = True) -> list[Tensor]:
        """Forces and virials in float64 for comparison."""
        gradient, vectors = self.gradient.to(dtype), self.vectors.to(dtype)
        forces, virials = kernels.edge_forces(gradient, vectors, *self[2:], need_virial, implementation=implementation)
        return [t.double() for t in (forces, virials) if t is not None]


def make_case(nodes: int, edges: int, *, padding: int = 0, same: bool = False) -> Case:
    """Random vectors on random edges; ``same`` puts every edge on atom 0 of many. What padding edges hold is NaN."""
    generator = torch.Generator().manual_seed(nodes + edges)
    senders, receivers = torch.randint(1 if same else max(nodes, 1), (2, edges), generator=generator)
    graph = Graph.from_edges(senders, receivers, torch.zeros(edges, 3, dtype=torch.int64), nodes, cutoff=1.0)
    if padding:
        graph = graph.padded(edges + padding)
    gradient, vectors = torch.randn(2, edges + padding, 3, generator=generator, dtype=torch.float64)
    gradient[edges:], vectors[edges:] = torch.nan, torch.nan
    return Case(*(t.to(DEVICE) for t in (gradient, vectors, *graph.rows[2:])))


def check(case: Case, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)) -> None:
    """At most twice the error the reference itself makes in a dtype, or that dtype's floor."""
    truth = case.run("reference", torch.float64)
    for dtype in dtypes:
        got, plain = case.run("triton", dtype), case.run("reference", dtype)
        for i, (ours, theirs, want) in enumerate(zip(got, plain, truth, strict=True)):
            assert ours.shape == want.shape
            if want.numel():
                allowed = max(2 * float((theirs - want).abs().max()), FLOOR[dtype] * float(want.abs().max()))
                assert float((ours - want).abs().max()) <= allowed, f"result {i} in {dtype}"
        (forces,) = case.run("triton", dtype, need_virial=False)
        assert torch.equal(forces, got[0])


SHAPES: dict[str, Callable[[], Case]] = {
    "a few edges": lambda: make_case(5, 30),
    "more edges than a block": lambda: make_case(2, 700),
    "no edges": lambda: make_case(3, 0),
    "no atoms": lambda: make_case(0, 0),
    "one atom, its own neighbour": lambda: make_case(1, 4),
    "every edge on one atom": lambda: make_case(4, 300, same=True),
    "padding": lambda: make_case(3, 20, padding=9),
    "padding only": lambda: make_case(2, 0, padding=5),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_reference(name: str) -> None:
    check(SHAPES[name]())


def test_every_run_gives_the_same_bits() -> None:
    case = make_case(3, 400)
    for first, second in zip(case.run("triton", torch.float64), case.run("triton", torch.float64), strict=True):
        assert torch.equal(first, second)


def test_non_contiguous_inputs() -> None:
    case = make_case(3, 20)
    gradient, vectors = (t.T.contiguous().T for t in case[:2])
    strided = Case(gradient, vectors, *(torch.stack([t, t], dim=1)[:, 0] for t in case[2:]))
    assert not any(t.is_contiguous() for t in strided)
    for got, want in zip(strided.run("triton", torch.float64), case.run("triton", torch.float64), strict=True):
        assert torch.equal(got, want)


def test_derivatives_are_those_of_the_reference() -> None:
    gradient, vectors, *edges = make_case(3, 20)
    gradient.requires_grad_()
    forces, _ = kernels.edge_forces(gradient, vectors, *edges, need_virial=False)
    forces.square().sum().backward()
    assert gradient.grad is not None and gradient.grad.any()
    with pytest.raises(ValueError, match="the reference implementation gives them"):
        kernels.edge_forces(gradient, vectors, *edges, need_virial=False, implementation="triton")


@pytest.mark.parametrize("need_virial", [False, True])
def test_opcheck(need_virial: bool) -> None:
    torch.library.opcheck(fused._edge_forces, (*make_case(3, 20, padding=2), need_virial, ""))


class Op(torch.nn.Module):
    """The op with virials."""

    def forward(self, gradient: Tensor, vectors: Tensor, edges: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        return kernels.edge_forces(gradient, vectors, *edges, need_virial=True, implementation="triton")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_compile_and_export(dynamic: bool) -> None:
    gradient, vectors, *edges = make_case(3, 20)
    op, inputs = Op(), (gradient, vectors, tuple(edges))
    want = op(*inputs)
    compiled = torch.compile(op, backend="inductor" if CUDA else "aot_eager", fullgraph=True, dynamic=dynamic)
    torch.testing.assert_close(compiled(*inputs), want)
    torch.testing.assert_close(torch.export.export(op, inputs).module()(*inputs), want)
