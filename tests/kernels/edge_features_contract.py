"""The fused edge features against their reference.

Runs on the GPU where there is one, else under Triton's interpreter, for which TRITON_INTERPRET has to be set before
anything imports triton: test_contracts.py starts it in a process of its own.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from kernels.contract import DEVICE, check, check_compile_and_export, cotangent, spread
from torch import Tensor

from mosso import kernels
from mosso.kernels.fused import edge_features as fused

R_MAX, INTERVALS = 2.5, 40
# Relative to the largest position in the table, harmonic or gradient.
FLOOR = {torch.float32: 1e-7, torch.float64: 1e-14}
pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Result(NamedTuple):
    place: Tensor  # row + t: continuous, where rounding at the end of an interval may choose one row or the next
    harmonics: Tensor
    gradient: Tensor


def run(vectors: Tensor, max_ell: int, implementation: str, dtype: torch.dtype) -> Result:
    """Everything in float64; the gradient is that of random multiples of all features."""
    vectors = vectors.detach().requires_grad_()
    features, rows = kernels.edge_features(vectors, max_ell, R_MAX, INTERVALS, dtype, implementation=implementation)
    assert features.dtype == dtype and rows.dtype == torch.int32
    assert features.shape == (len(vectors), (max_ell + 1) ** 2) and rows.shape == (len(vectors),)
    (gradient,) = torch.autograd.grad((features * cotangent(features)).sum(), vectors)
    features = features.detach().double()
    return Result(rows + features[:, 0], features[:, 1:], gradient)


def vectors_of(edges: int) -> Tensor:
    """Shorter and longer than the cutoff."""
    return torch.randn(edges, 3, generator=torch.Generator().manual_seed(edges), dtype=torch.float64).to(DEVICE) * 1.5


def check_features(vectors: Tensor, max_ell: int) -> None:
    check(lambda *how: run(vectors, max_ell, *how), floor=FLOOR)


@pytest.mark.parametrize("max_ell", [0, 1, 2, 3, 4, 5])
def test_equals_the_reference(max_ell: int) -> None:
    check_features(vectors_of(130), max_ell)


SHAPES: dict[str, Callable[[], Tensor]] = {
    "no edges": lambda: vectors_of(0),
    "one edge": lambda: vectors_of(1),
    "along the axes": lambda: torch.cat([torch.eye(3), -torch.eye(3)]).double().to(DEVICE),
    "non-contiguous": lambda: spread(vectors_of(70)),
    "single precision": lambda: vectors_of(70).float(),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_hurt(name: str) -> None:
    vectors = SHAPES[name]()
    if vectors.dtype == torch.float64:
        check_features(vectors, 3)
    else:  # arithmetic is in float64 all the same
        got, want = (run(vectors.to(dtype), 3, "triton", torch.float64) for dtype in (torch.float32, torch.float64))
        assert torch.equal(got.harmonics, want.harmonics) and torch.equal(got.place, want.place)


@pytest.mark.parametrize("implementation", ["reference", "triton"])
def test_padding_and_edges_of_no_length(implementation: str) -> None:
    """Padding is of the length of the cutoff to the bit: the row of zeros, t = 0, and no gradient of t."""
    vectors = torch.tensor([[R_MAX, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.1, 0.0, 0.0]], dtype=torch.float64, device=DEVICE)
    vectors.requires_grad_()
    features, rows = kernels.edge_features(vectors, 3, R_MAX, INTERVALS, torch.float32, implementation=implementation)
    assert rows.tolist() == [INTERVALS, 0, INTERVALS, 1]
    assert not features[:3, 0].any() and not features[1].any() and features.isfinite().all()
    (of_position,) = torch.autograd.grad(features[:, 0].sum(), vectors, retain_graph=True)
    assert not of_position[:3].any() and float(of_position[3, 0]) == INTERVALS / R_MAX
    (gradient,) = torch.autograd.grad(features[3].square().sum(), vectors)
    assert not gradient[:3].any() and gradient.isfinite().all()


def test_just_inside_the_cutoff() -> None:
    vectors = torch.tensor([[0.0, math.nextafter(R_MAX, 0.0), 0.0]], dtype=torch.float64, device=DEVICE)
    _, rows = kernels.edge_features(vectors, 1, R_MAX, INTERVALS, torch.float32, implementation="triton")
    assert rows.tolist() == [INTERVALS - 1]


def test_second_derivatives_point_to_the_reference() -> None:
    vectors = vectors_of(3).requires_grad_()
    features, _ = kernels.edge_features(vectors, 2, R_MAX, INTERVALS, torch.float64, implementation="triton")
    (gradient,) = torch.autograd.grad(features.square().sum(), vectors, create_graph=True)
    with pytest.raises(ValueError, match="the reference implementation gives the second"):
        gradient.sum().backward()


def test_opcheck() -> None:
    vectors = vectors_of(5)
    torch.library.opcheck(fused._forward, (vectors.clone().requires_grad_(), 2, R_MAX, INTERVALS, torch.float32, ""))
    g = torch.ones(5, 9, dtype=torch.float32, device=DEVICE)
    torch.library.opcheck(fused._backward, (g, vectors, 2, R_MAX, INTERVALS, ""))


class Op(torch.nn.Module):
    """The op with its numbers fixed, as a model holds it."""

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.edge_features(vectors, 2, R_MAX, INTERVALS, torch.float32, implementation="triton")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_compile_and_export(dynamic: bool) -> None:
    check_compile_and_export(Op(), [vectors_of(20)], dynamic=dynamic)
