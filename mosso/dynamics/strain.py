"""Homogeneous deformation of cells: matrices of 3 x 3, one per system, that rows of coordinates are multiplied by."""

import torch
from torch import Tensor

# exp(u) = (Taylor polynomial of u / 2^4)^(2^4): for |u| <= 2 the first term left out is below 1e-16.
_SQUARINGS, _DEGREE = 4, 11


def exponential(u_B33: Tensor) -> Tensor:
    """(B, 3, 3) matrix exponentials for |u| of a few at most; products and sums only, so that it is differentiable and can be
    captured (``torch.linalg.matrix_exp`` reads norms back to the host)."""
    small_B33 = u_B33 / 2**_SQUARINGS
    eye_33 = torch.eye(3, dtype=u_B33.dtype, device=u_B33.device)
    power_B33 = eye_33 + small_B33 / _DEGREE
    for degree in range(_DEGREE - 1, 0, -1):
        power_B33 = torch.baddbmm(eye_33, small_B33, power_B33, alpha=1.0 / degree)
    for _ in range(_SQUARINGS):
        power_B33 = power_B33 @ power_B33
    return power_B33


def deform(vectors_N3: Tensor, matrix_B33: Tensor, system_N: Tensor) -> Tensor:
    """(N, 3) rows v M, with the matrix of each atom's system."""
    return (vectors_N3.unsqueeze(2) * matrix_B33[system_N]).sum(1)
