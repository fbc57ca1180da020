"""Smooth functions of a distance as piecewise cubics, so that an edge costs a look-up instead of a network."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

RadialFunction = Callable[[Tensor], Tensor]  # (R,) float64 distances in Angstrom -> (R, D) float64

_CPU = torch.device("cpu")
# Where sin(w r) / r is asked for instead of at zero, Angstrom.
_SMALLEST = 1e-6
# Three points of Gauss and Legendre on [0, 1], and four. A quadratic through three values there is the best one for the mean square
# to leading order, and its integral over the interval is exact to the seventh order in the length; so is a cubic through four.
_THREE, _FOUR = (0.5 + 0.5 * np.polynomial.legendre.leggauss(count)[0] for count in (3, 4))


def tabulate(function: RadialFunction, r_max: float, num_intervals: int, device: torch.device = _CPU) -> Tensor:
    """(num_intervals + 1, 4, D) float64: coefficients of 1, t, t^2, t^3 on equal intervals of [0, r_max), t in [0, 1) inside each.

    Forces feel the derivative, so that is what is fitted: it is interpolated at the three Gauss-Legendre points of every interval, and
    the constant is the function at the left end. Neighbouring cubics then meet to about 1e-12. The last row is zero: it stands for
    r_max and beyond, where ``function`` must have come down to zero. ``device``: where the function computes.
    """
    width = r_max / num_intervals
    left_R = _left_ends(r_max, num_intervals, device)
    value_RD = function(left_R.clamp(min=_SMALLEST))
    a_RD, b_RD, c_RD = _through(lambda distances_R: derivative(function, distances_R) * width, left_R, width, _THREE).unbind(1)
    rows = torch.stack([value_RD, a_RD, b_RD / 2.0, c_RD / 3.0], dim=1)
    return torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])


def tabulate_values(function: RadialFunction, r_max: float, num_intervals: int, device: torch.device = _CPU) -> Tensor:
    """As ``tabulate``, but what is fitted is the function, at four Gauss-Legendre points: for sums that nobody differentiates.

    A quarter of the intervals then do; neighbouring cubics meet no better than they fit.
    """
    left_R = _left_ends(r_max, num_intervals, device)
    rows = _through(function, left_R, r_max / num_intervals, _FOUR)
    return torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])


def _left_ends(r_max: float, num_intervals: int, device: torch.device) -> Tensor:
    return torch.arange(num_intervals, dtype=torch.float64, device=device) * (r_max / num_intervals)


def _through(function: RadialFunction, left_R: Tensor, width: float, nodes: np.ndarray) -> Tensor:
    """(R, Q, D) coefficients of the polynomials through ``function`` at Q ``nodes`` of the intervals, ascending."""
    points_RQ = left_R.unsqueeze(1) + width * torch.as_tensor(nodes, device=left_R.device)
    to_coefficients = torch.as_tensor(np.linalg.inv(np.vander(nodes, increasing=True)), device=left_R.device)
    return to_coefficients @ function(points_RQ.flatten()).unflatten(0, points_RQ.shape)


def derivative(function: RadialFunction, distances_R: Tensor) -> Tensor:
    """(R, D) derivative of ``function`` at the distances.

    The gradient of <u, function> is linear in u, and its gradient in u the derivative: reverse mode twice. Forward mode would be one
    pass less, but torch.func.jvp imports torch's compiler, which takes far longer.
    """
    with torch.enable_grad():
        at_R = distances_R.detach().requires_grad_()
        value_RD = function(at_R)
        u_RD = torch.zeros_like(value_RD).requires_grad_()
        (along_R,) = torch.autograd.grad((u_RD * value_RD).sum(), at_R, create_graph=True)
        (result_RD,) = torch.autograd.grad(along_R.sum(), u_RD)
    return result_RD


def table_error(table_RQD: Tensor, function: RadialFunction, r_max: float) -> float:
    """Relative root mean square error of a table's derivative over distances of half an Angstrom and more, where atoms are."""
    distances_R, (_, a_RD, b_RD, c_RD), t_R1 = _probe(table_RQD, r_max)
    found_RD = (a_RD + t_R1 * (2.0 * b_RD + t_R1 * (3.0 * c_RD))) * ((table_RQD.shape[0] - 1) / r_max)
    return _difference(found_RD, derivative(function, distances_R))


def value_error(table_RQD: Tensor, function: RadialFunction, r_max: float) -> float:
    """As ``table_error``, of the function itself."""
    distances_R, (value_RD, a_RD, b_RD, c_RD), t_R1 = _probe(table_RQD, r_max)
    return _difference(value_RD + t_R1 * (a_RD + t_R1 * (b_RD + t_R1 * c_RD)), function(distances_R))


def _probe(table_RQD: Tensor, r_max: float) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Distances where a table is tested, the coefficients there, and t."""
    num_intervals = table_RQD.shape[0] - 1
    generator = torch.Generator().manual_seed(0)
    first = min(0.5, 0.5 * r_max)
    share_R = torch.rand(4096, dtype=torch.float64, generator=generator).to(table_RQD.device)
    distances_R = first + (r_max - first) * share_R
    scaled_R = distances_R * (num_intervals / r_max)
    rows_R = scaled_R.long().clamp(max=num_intervals - 1)
    return distances_R, table_RQD[rows_R].double().unbind(1), (scaled_R - rows_R).unsqueeze(1)


def _difference(found_RD: Tensor, exact_RD: Tensor) -> float:
    return float((found_RD - exact_RD).norm() / exact_RD.norm().clamp(min=1e-300))


def choose_intervals(
    function: RadialFunction, r_max: float, max_error: float, dtype: torch.dtype, device: torch.device = _CPU
) -> int | None:
    """The smallest power of two whose table, stored in ``dtype``, keeps within ``max_error``; None where 4096 intervals do not."""
    for num_intervals in (256, 512, 1024, 2048, 4096):
        if table_error(tabulate(function, r_max, num_intervals, device).to(dtype), function, r_max) <= max_error:
            return num_intervals
    return None
