"""Real spherical harmonics of any degree."""

from functools import cache
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from mosso.math.coupling import wigner_3j


def spherical_harmonics(directions_E3: Tensor, max_ell: int) -> Tensor:
    """(E, (max_ell + 1)^2) real harmonics of unit vectors, degrees ascending, |Y_l|^2 = 2 l + 1.

    Degree l + 1 is the stretched coupling of degree l with the direction, so one rule gives every degree.
    """
    degree_E = directions_E3.new_ones(directions_E3.shape[0], 1)
    harmonics = [degree_E]
    for ell in range(max_ell):
        outer_EK = (degree_E.unsqueeze(2) * directions_E3.unsqueeze(1)).flatten(1)
        degree_E = outer_EK @ _raising_matrix(ell, directions_E3.dtype, directions_E3.device)
        harmonics.append(degree_E)
    return torch.cat(harmonics, dim=1)


@cache
def _raising_matrix(ell: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``raising_matrix`` as a tensor, uploaded once."""
    return torch.as_tensor(raising_matrix(ell), dtype=dtype, device=device)


def raising_matrix(ell: int) -> np.ndarray:
    """(3 (2 l + 1), 2 l + 3) float64: outer product of Y_l and a unit vector -> Y_(l+1)."""
    coupling = np.array(wigner_3j(ell, 1, ell + 1)).reshape(-1, 2 * ell + 3)
    pole = np.array([0.0, 1.0, 0.0])  # along the polar axis only m = 0 is nonzero, and there Y_l0 = sqrt(2 l + 1)
    at_pole = np.zeros(2 * ell + 1)
    at_pole[ell] = sqrt(2 * ell + 1)
    reached = np.outer(at_pole, pole).ravel() @ coupling
    raising: np.ndarray = coupling * (sqrt(2 * ell + 3) / reached[ell + 1])
    return raising
