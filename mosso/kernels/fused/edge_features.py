# mypy: disallow-untyped-defs=False
"""What a tabulated convolution reads of the edges, in Triton: one kernel forward, one for the gradient, one thread per edge.

Position inside the interval of the radial table and harmonics, from the vectors; everything between is in registers and in
float64. The gradient makes the harmonics again rather than keep them. Source of both: ``edge_features_source.py``.

E edges, J features: the position, then the harmonics of degree 1 and higher.
"""

from typing import Any

import torch
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT, refuse_second_derivative
from mosso.kernels.fused import edge_features_source as generated
from mosso.kernels.fused.launch import ceil_div, launch, register
from mosso.kernels.reference import SHORTEST

BLOCK = 64  # edges of a program, one per thread


def _constants(r_max: float, num_intervals: int) -> dict[str, Any]:
    # Numbers of the model are compiled in: as arguments they would be float32.
    cut = {"BLOCK": BLOCK, "num_warps": BLOCK // 32}
    return {"RATE": num_intervals / r_max, "R_MAX": r_max, "INTERVALS": num_intervals, "SHORTEST": SHORTEST, **cut}


def _fake_forward(vectors, max_ell, r_max, num_intervals, dtype, fingerprint):
    num_edges = vectors.shape[0]
    return vectors.new_empty(num_edges, (max_ell + 1) ** 2, dtype=dtype), vectors.new_empty(num_edges, dtype=torch.int32)


@register("edge_features", _fake_forward)
def _forward(
    vectors: Tensor, max_ell: int, r_max: float, num_intervals: int, dtype: torch.dtype, fingerprint: str
) -> tuple[Tensor, Tensor]:
    """(E, J) features and (E,) int32 rows."""
    num_edges = vectors.shape[0]
    features = vectors.new_empty(num_edges, (max_ell + 1) ** 2, dtype=dtype)
    rows = vectors.new_empty(num_edges, dtype=torch.int32)
    grid = (ceil_div(num_edges, BLOCK),)
    kernel = generated.kernel("forward", max_ell)
    launch(kernel, grid, vectors.contiguous(), features, rows, num_edges, **_constants(r_max, num_intervals))
    return features, rows


def _fake_backward(g, vectors, max_ell, r_max, num_intervals, fingerprint):
    return vectors.new_empty(vectors.shape)


@register("edge_features_backward", _fake_backward)
def _backward(g: Tensor, vectors: Tensor, max_ell: int, r_max: float, num_intervals: int, fingerprint: str) -> Tensor:
    """(E, 3) gradient of <g, features> with respect to the vectors."""
    num_edges = vectors.shape[0]
    grad_vectors = vectors.new_empty(vectors.shape)
    grid = (ceil_div(num_edges, BLOCK),)
    kernel = generated.kernel("backward", max_ell)
    launch(kernel, grid, g.contiguous(), vectors.contiguous(), grad_vectors, num_edges, **_constants(r_max, num_intervals))
    return grad_vectors


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    vectors, *ctx.sizes, _, _ = inputs
    ctx.save_for_backward(vectors)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # of rows there is none, and zeros in its place would be a kernel


def _first_derivative(ctx: Any, g: Tensor, of_rows: None) -> tuple[Any, ...]:
    return _backward(g, *ctx.saved_tensors, *ctx.sizes, FINGERPRINT), *(None,) * 5


_forward.register_autograd(_first_derivative, setup_context=_keep_forward)
refuse_second_derivative(_backward, "edge_features")


def edge_features(vectors_E3: Tensor, max_ell: int, r_max: float, num_intervals: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(E, J) features in ``dtype`` and (E,) int32 rows, as ``reference.edge_features``; differentiable once."""
    features, rows = _forward(vectors_E3, max_ell, r_max, num_intervals, dtype, FINGERPRINT)
    return features, rows
