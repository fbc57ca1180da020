"""The fused assembly of forces against its reference.

Runs on the GPU where there is one, else under Triton's interpreter, for which TRITON_INTERPRET has to be set before
anything imports triton: test_contracts.py starts it in a process of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from kernels.contract import BOTH, DEVICE, assert_same_bits, check, check_compile_and_export, random_rows, spread
from torch import Tensor

from mosso import kernels
from mosso.kernels.fused import edge_forces as fused
from mosso.kernels.reference import Virials

FLOOR = {torch.float32: 1e-6, torch.float64: 1e-14}  # relative to the largest number of the result
pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Case(NamedTuple):
    """Gradients and vectors in float64, and the edges."""

    gradient: Tensor
    vectors: Tensor
    receiver_offsets: Tensor
    transpose: Tensor
    sender_offsets: Tensor

    def run(self, implementation: str, dtype: torch.dtype, virials: Virials = "shared") -> list[Tensor]:
        """Forces and virials in float64 for comparison."""
        gradient, vectors = self.gradient.to(dtype), self.vectors.to(dtype)
        results = kernels.edge_forces(gradient, vectors, *self[2:], virials, implementation=implementation)
        return [t.double() for t in results if t is not None]


def make_case(nodes: int, edges: int, *, padding: int = 0, same: bool = False) -> Case:
    """Random vectors on random edges; ``same`` puts every edge on atom 0 of many. What padding edges hold is NaN."""
    generator = torch.Generator().manual_seed(nodes + edges)
    atoms = 1 if same else None
    rows = random_rows(generator, nodes, edges, padding=padding, num_senders=atoms, num_receivers=atoms)
    gradient, vectors = torch.randn(2, edges + padding, 3, generator=generator, dtype=torch.float64)
    gradient[edges:], vectors[edges:] = torch.nan, torch.nan
    return Case(gradient.to(DEVICE), vectors.to(DEVICE), *rows[2:])


def check_forces(case: Case, dtypes: tuple[torch.dtype, ...] = BOTH) -> None:
    """The rule for errors; forces have the same bits with and without virials."""
    check(partial(case.run, virials="received"), dtypes, FLOOR)
    for dtype, (forces, _) in zip(dtypes, check(case.run, dtypes, FLOOR), strict=True):
        assert_same_bits(case.run("triton", dtype, "none"), [forces])
        assert_same_bits(case.run("triton", dtype, "received")[:1], [forces])


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
    check_forces(SHAPES[name]())


def test_every_run_gives_the_same_bits() -> None:
    case = make_case(3, 400)
    assert_same_bits(case.run("triton", torch.float64), case.run("triton", torch.float64))


def test_non_contiguous_inputs() -> None:
    case = make_case(3, 20)
    strided = spread(case)
    assert not any(t.is_contiguous() for t in strided)
    assert_same_bits(strided.run("triton", torch.float64), case.run("triton", torch.float64))


def test_derivatives_are_those_of_the_reference() -> None:
    gradient, vectors, *edges = make_case(3, 20)
    gradient.requires_grad_()
    forces, _ = kernels.edge_forces(gradient, vectors, *edges, virials="none")
    forces.square().sum().backward()
    assert gradient.grad is not None and gradient.grad.any()
    with pytest.raises(ValueError, match="the reference implementation gives them"):
        kernels.edge_forces(gradient, vectors, *edges, virials="none", implementation="triton")


@pytest.mark.parametrize("virials", ["none", "shared", "received"])
def test_opcheck(virials: Virials) -> None:
    torch.library.opcheck(fused._edge_forces, (*make_case(3, 20, padding=2), virials, ""))


class Op(torch.nn.Module):
    """The op with virials."""

    def forward(self, gradient: Tensor, vectors: Tensor, edges: tuple[Tensor, ...]) -> tuple[Tensor, Tensor | None]:
        return kernels.edge_forces(gradient, vectors, *edges, virials="shared", implementation="triton")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_compile_and_export(dynamic: bool) -> None:
    gradient, vectors, *edges = make_case(3, 20)
    check_compile_and_export(Op(), (), (gradient, vectors, tuple(edges)), dynamic)
