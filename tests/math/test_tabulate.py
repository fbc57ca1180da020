"""Tables of functions, and the derivatives that they are fitted to."""

import torch

from mosso.math.tabulate import derivative, table_error, tabulate, tabulate_values, value_error


def test_derivative_of_several_functions_of_a_distance() -> None:
    distances_R = torch.linspace(0.5, 5.0, 50, dtype=torch.float64)
    with torch.no_grad():
        found_RD = derivative(lambda r: torch.stack([r.sin() / r, r**3, 2.0 - r], dim=1), distances_R)
    want = [distances_R.cos() / distances_R - distances_R.sin() / distances_R**2, 3.0 * distances_R**2, -torch.ones_like(distances_R)]
    torch.testing.assert_close(found_RD, torch.stack(want, dim=1), rtol=1e-14, atol=1e-14)
    assert not found_RD.requires_grad and not distances_R.requires_grad


def wave(distances_R: torch.Tensor) -> torch.Tensor:
    """(R, 2) smooth, zero from 5 on."""
    inside_R = (1.0 - distances_R / 5.0).clamp(min=0.0) ** 3
    return torch.stack([(4.0 * distances_R).sin() * inside_R, inside_R], dim=1)


def test_tables_of_values_and_of_derivatives() -> None:
    """Each is the better one for what it is fitted to; halving the intervals divides its errors by 2^4 and 2^3."""
    values, slopes = ([make(wave, 5.0, n) for n in (32, 64)] for make in (tabulate_values, tabulate))
    for table_RQD in (*values, *slopes):
        assert not table_RQD[-1].any()
    assert value_error(values[1], wave, 5.0) < 0.8 * value_error(slopes[1], wave, 5.0)
    assert table_error(slopes[1], wave, 5.0) < table_error(values[1], wave, 5.0)
    assert 15 < value_error(values[0], wave, 5.0) / value_error(values[1], wave, 5.0) < 17
    assert 7 < table_error(slopes[0], wave, 5.0) / table_error(slopes[1], wave, 5.0) < 9


def test_a_cubic_is_its_own_table() -> None:
    def cubic(distances_R: torch.Tensor) -> torch.Tensor:
        return ((distances_R - 2.0) ** 3).unsqueeze(1)

    for make in (tabulate, tabulate_values):
        table_RQD = make(cubic, 2.0, 4)
        torch.testing.assert_close(table_RQD[1, :, 0], torch.tensor([-27 / 8, 27 / 8, -9 / 8, 1 / 8], dtype=torch.float64))
        assert value_error(table_RQD, cubic, 2.0) < 1e-14 and table_error(table_RQD, cubic, 2.0) < 1e-13
