"""The fused edge features against their reference.

Runs on the GPU where there is one, else under Triton's interpreter, for which TRITON_INTERPRET has to be set before
anything imports triton: test_edge_features.py starts it in a process of its own.
"""

import math
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mosso import kernels
from mosso.kernels.fused import INTERPRETED
from mosso.kernels.fused import edge_features as fused

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what the reference needs in deterministic mode
R_MAX, INTERVALS = 2.5, 40
# Of the position in the table in intervals, and of harmonics and gradients relative to the largest.
FLOOR = {torch.float32: 1e-7, torch.float64: 1e-14}
assert INTERPRETED is not CUDA, "set TRITON_INTERPRET=1 where there is no CUDA device, and only there"


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """New tensors start as NaN, so that a number nobody wrote cannot pass."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


class Result(NamedTuple):
    place: Tensor  # row + t: continuous, where rounding at the end of an interval may choose one row or the next
    harmonics: Tensor
    gradient: Tensor


def run(vectors: Tensor, max_ell: int, implementation: str, dtype: torch.dtype) -> Result:
    """Everything in float64; the gradient is that of random multiples of all features."""
    vectors = vectors.clone().requires_grad_()
    features, rows = kernels.edge_features(vectors, max_ell, R_MAX, INTERVALS, dtype, implementation=implementation)
    assert features.dtype == dtype and rows.dtype == torch.int32
    assert features.shape == (len(vectors), (max_ell + 1) ** 2) and rows.shape == (len(vectors),)
    cotangent = torch.randn(features.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(features)
    (gradient,) = torch.autograd.grad((features * cotangent).sum(), vectors)
    features = features.detach().double()
    return Result(rows + features[:, 0], features[:, 1:], gradient)


def vectors_of(edges: int) -> Tensor:
    """Shorter and longer than the cutoff."""
    return torch.randn(edges, 3, generator=torch.Generator().manual_seed(edges), dtype=torch.float64).to(DEVICE) * 1.5


def check(vectors: Tensor, max_ell: int, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)) -> None:
    """At most twice the error the reference itself makes in a dtype, or that dtype's floor."""
    truth = run(vectors, max_ell, "reference", torch.float64)
    for dtype in dtypes:
        got, plain = (run(vectors, max_ell, implementation, dtype) for implementation in ("triton", "reference"))
        for name, ours, theirs, want in zip(Result._fields, got, plain, truth, strict=True):
            if want.numel():
                allowed = max(2 * float((theirs - want).abs().max()), FLOOR[dtype] * max(float(want.abs().max()), 1.0))
                assert float((ours - want).abs().max()) <= allowed, f"{name} in {dtype}"


@pytest.mark.parametrize("max_ell", [0, 1, 2, 3, 4, 5])
def test_equals_the_reference(max_ell: int) -> None:
    check(vectors_of(130), max_ell)


SHAPES: dict[str, Callable[[], Tensor]] = {
    "no edges": lambda: vectors_of(0),
    "one edge": lambda: vectors_of(1),
    "along the axes": lambda: torch.cat([torch.eye(3), -torch.eye(3)]).double().to(DEVICE),
    "non-contiguous": lambda: vectors_of(70).T.contiguous().T,
    "single precision": lambda: vectors_of(70).float(),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_hurt(name: str) -> None:
    vectors = SHAPES[name]()
    if vectors.dtype == torch.float64:
        check(vectors, 3)
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
    op, vectors = Op(), vectors_of(20).requires_grad_()
    want = op(vectors)
    compiled = torch.compile(op, backend="inductor" if CUDA else "aot_eager", fullgraph=True, dynamic=dynamic)
    got = compiled(vectors)
    torch.testing.assert_close(got, want)
    (ours,), (theirs,) = (torch.autograd.grad(out[0].square().sum(), vectors) for out in (got, want))
    torch.testing.assert_close(ours, theirs)
    exported = torch.export.export(op, (vectors.detach(),))
    torch.testing.assert_close(exported.module()(vectors.detach()), want)
