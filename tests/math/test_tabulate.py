"""Derivatives that tables are fitted to."""

import torch

from mosso.math.tabulate import derivative


def test_derivative_of_several_functions_of_a_distance() -> None:
    distances_R = torch.linspace(0.5, 5.0, 50, dtype=torch.float64)
    with torch.no_grad():
        found_RD = derivative(lambda r: torch.stack([r.sin() / r, r**3, 2.0 - r], dim=1), distances_R)
    want = [distances_R.cos() / distances_R - distances_R.sin() / distances_R**2, 3.0 * distances_R**2, -torch.ones_like(distances_R)]
    torch.testing.assert_close(found_RD, torch.stack(want, dim=1), rtol=1e-14, atol=1e-14)
    assert not found_RD.requires_grad and not distances_R.requires_grad
