"""Homogeneous deformation of cells: matrices of 3 x 3, one per system, that rows of coordinates are multiplied by."""

from torch import Tensor


def deform(vectors_N3: Tensor, matrix_B33: Tensor, system_N: Tensor) -> Tensor:
    """(N, 3) rows v M, with the matrix of each atom's system."""
    return (vectors_N3.unsqueeze(2) * matrix_B33[system_N]).sum(1)
