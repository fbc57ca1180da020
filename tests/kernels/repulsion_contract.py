"""The fused repulsion of nuclei against its reference: energies, first and second derivatives, awkward shapes.

Runs on the GPU where there is one, else under Triton's interpreter; test_contracts.py starts it in a process of its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from kernels.contract import DEVICE, assert_same_bits, check, check_compile_and_export, derivatives, random_rows, spread
from torch import Tensor

from mosso import kernels
from mosso.kernels.fused import repulsion as fused

FLOOR = {torch.float64: 1e-13}  # relative to the largest number of a result
SCREENING = ((0.18, 0.51, 0.28, 0.03), (3.2, 0.94, 0.4, 0.2))
pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Case(NamedTuple):
    """Vectors, species, pairs, and the edges."""

    vectors: Tensor
    species: Tensor
    pairs: Tensor
    senders: Tensor
    receivers: Tensor
    offsets: Tensor

    def energies(self, vectors: Tensor, implementation: str, power: int = 6) -> Tensor:
        return kernels.pair_repulsion(vectors, *self[1:3], *SCREENING, power, *self[3:], implementation=implementation)

    def run(self, implementation: str, dtype: torch.dtype) -> list[Tensor]:
        # squared, because energies are added up with weights of one elsewhere
        return derivatives(lambda v: self.energies(v, implementation).square(), [self.vectors.to(dtype)], order=2)


def make_case(nodes: int, edges: int, *, padding: int = 0, same: bool = False, species: int = 3) -> Case:
    """Edges of 0.3 to 3 A between atoms whose pairs reach 1 to 2 A; ``same`` puts every edge on atom 0 of many."""
    generator = torch.Generator().manual_seed(nodes + edges)
    atoms = 1 if same else None
    senders, receivers, offsets, *_ = random_rows(generator, nodes, edges, padding=padding, num_senders=atoms, num_receivers=atoms)
    vectors = torch.randn(edges + padding, 3, generator=generator, dtype=torch.float64)
    length = torch.rand(edges + padding, 1, generator=generator, dtype=torch.float64) * 2.7 + 0.3
    vectors *= length / vectors.norm(dim=1, keepdim=True)
    pairs = torch.rand(species, species, 3, generator=generator, dtype=torch.float64) + 1.0
    kinds = torch.randint(species, (nodes,), generator=generator)
    return Case(vectors.to(DEVICE), kinds.to(DEVICE), pairs.to(DEVICE), senders, receivers, offsets)


SHAPES: dict[str, Callable[[], Case]] = {
    "a few edges": lambda: make_case(5, 30),
    "more edges than a block": lambda: make_case(2, 300),
    "no edges": lambda: make_case(3, 0),
    "no atoms": lambda: make_case(0, 0),
    "one atom, its own neighbour": lambda: make_case(1, 4, species=1),
    "every edge on one atom": lambda: make_case(4, 300, same=True),
    "padding, short": lambda: make_case(3, 20, padding=9),
    "padding only": lambda: make_case(2, 0, padding=5),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_reference(name: str) -> None:
    check(SHAPES[name]().run, (torch.float64,), FLOOR)


@pytest.mark.parametrize("power", [1, 2, 5])
def test_powers_of_the_envelope(power: int) -> None:
    case = make_case(5, 30)

    def run(implementation: str, dtype: torch.dtype) -> list[Tensor]:
        return derivatives(lambda v: case.energies(v, implementation, power), [case.vectors.to(dtype)], order=1)

    check(run, (torch.float64,), FLOOR)


def test_long_edges_are_exactly_zero() -> None:
    case = make_case(4, 50)
    vectors = (case.vectors * 10.0).requires_grad_()
    energies = case.energies(vectors, "triton")
    (gradient,) = torch.autograd.grad(energies.sum(), vectors)
    assert not energies.any()
    assert not gradient.any()


def test_every_run_gives_the_same_bits() -> None:
    case = make_case(3, 400)
    assert_same_bits(case.run("triton", torch.float64), case.run("triton", torch.float64))


def test_non_contiguous_inputs() -> None:
    case = make_case(3, 20)
    strided = spread(case)
    assert not any(t.is_contiguous() for t in strided[:3])
    # the second derivative is the reference's
    assert_same_bits(strided.run("triton", torch.float64)[:2], case.run("triton", torch.float64)[:2])


def test_opcheck() -> None:
    case = make_case(3, 20, padding=2)
    terms = (*map(list, SCREENING), 6, "")
    torch.library.opcheck(fused._forward, (case.vectors.requires_grad_(), *case[1:], *terms))
    weights = torch.ones(3, dtype=torch.float64, device=DEVICE)
    torch.library.opcheck(fused._backward, (weights, case.vectors.detach(), *case[1:], *terms))


class Op(torch.nn.Module):
    """The op with its constants."""

    def forward(self, vectors: Tensor, rest: tuple[Tensor, ...]) -> Tensor:
        return Case(vectors, *rest).energies(vectors, "triton")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_compile_and_export(dynamic: bool) -> None:
    vectors, *rest = make_case(3, 20)
    check_compile_and_export(Op(), [vectors], (tuple(rest),), dynamic)
