"""Smooth functions of a distance as piecewise cubics, so that an edge costs a look-up instead of a network."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

RadialFunction = Callable[[Tensor], Tensor]  # (R,) float64 distances in Angstrom -> (R, D) float64

_CPU = torch.device("cpu")
# Where sin(w r) / r is asked for instead of at zero, Angstrom.
_SMALLEST = 1e-6
# The points of Gauss and Legendre on [0, 1]. A quadratic through three values there is the best one for the mean square to leading
# order, and its integral over the interval is exact to the seventh order in the length.
_NODES = 0.5 + 0.5 * np.sqrt(0.6) * np.array([-1.0, 0.0, 1.0])


def tabulate(function: RadialFunction, r_max: float, num_intervals: int, device: torch.device = _CPU) -> Tensor:
    """(num_intervals + 1, 4, D) float64: coefficients of 1, t, t^2, t^3 on equal intervals of [0, r_max), t in [0, 1) inside each.

    Forces feel the derivative, so that is what is fitted: it is interpolated at the three Gauss-Legendre points of every interval, and
    the constant is the function at the left end. Neighbouring cubics then meet to about 1e-12. The last row is zero: it stands for
    r_max and beyond, where ``function`` must have come down to zero. ``device``: where the function computes.
    """
    width = r_max / num_intervals
    left_R = torch.arange(num_intervals, dtype=torch.float64, device=device) * width
    value_RD = function(left_R.clamp(min=_SMALLEST))
    nodes_R3 = left_R.unsqueeze(1) + width * torch.as_tensor(_NODES, device=device)
    slope_R3D = derivative(function, nodes_R3.flatten()).unflatten(0, (-1, 3)) * width
    to_quadratic = torch.as_tensor(np.linalg.inv(np.vander(_NODES, increasing=True)), device=device)
    a_RD, b_RD, c_RD = (to_quadratic @ slope_R3D).unbind(1)
    rows = torch.stack([value_RD, a_RD, b_RD / 2.0, c_RD / 3.0], dim=1)
    return torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])


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
    num_intervals = table_RQD.shape[0] - 1
    generator = torch.Generator().manual_seed(0)
    first = min(0.5, 0.5 * r_max)
    share_R = torch.rand(4096, dtype=torch.float64, generator=generator).to(table_RQD.device)
    distances_R = first + (r_max - first) * share_R
    scaled_R = distances_R * (num_intervals / r_max)
    rows_R = scaled_R.long().clamp(max=num_intervals - 1)
    t_R1 = (scaled_R - rows_R).unsqueeze(1)
    _, a_RD, b_RD, c_RD = table_RQD[rows_R].double().unbind(1)
    found_RD = (a_RD + t_R1 * (2.0 * b_RD + t_R1 * (3.0 * c_RD))) * (num_intervals / r_max)
    exact_RD = derivative(function, distances_R)
    return float((found_RD - exact_RD).norm() / exact_RD.norm().clamp(min=1e-300))


def choose_intervals(
    function: RadialFunction, r_max: float, max_error: float, dtype: torch.dtype, device: torch.device = _CPU
) -> int | None:
    """The smallest power of two whose table, stored in ``dtype``, keeps within ``max_error``; None where 4096 intervals do not."""
    for num_intervals in (256, 512, 1024, 2048, 4096):
        if table_error(tabulate(function, r_max, num_intervals, device).to(dtype), function, r_max) <= max_error:
            return num_intervals
    return None
