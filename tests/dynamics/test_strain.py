"""The exponential of a strain against torch's own."""

import pytest
import torch

from mosso.dynamics.strain import deform
from mosso.kernels import exponential


@pytest.mark.parametrize("size", [1e-6, 0.1, 1.0, 3.0])
def test_exponential_and_its_derivative_are_those_of_torch(size):
    u_B33 = size * torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u_B33 = (0.5 * (u_B33 + u_B33.mT)).requires_grad_()
    ours, theirs = exponential(u_B33), torch.linalg.matrix_exp(u_B33)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    weights = torch.randn(5, 3, 3, dtype=torch.float64)
    gradients = [torch.autograd.grad((weights * value).sum(), u_B33)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours @ exponential(-u_B33), torch.eye(3, dtype=torch.float64).expand(5, 3, 3), rtol=0, atol=1e-10)


def test_deform_multiplies_rows_from_the_left():
    rows_N3, matrix_B33 = torch.randn(4, 3), torch.randn(2, 3, 3)
    system_N = torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(
        deform(rows_N3, matrix_B33, system_N), torch.stack([r @ matrix_B33[b] for r, b in zip(rows_N3, system_N, strict=True)])
    )
