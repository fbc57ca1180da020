"""Radial functions: limits, smoothness, known values."""

import numpy as np
import pytest
import torch

from mosso.math.radial import COVALENT_RADII, agnesi_transform, bessel_basis, bessel_frequencies, polynomial_envelope


@pytest.mark.parametrize("p", [5, 6])
def test_envelope_is_one_at_zero_and_smoothly_zero_at_the_cutoff(p: int) -> None:
    r = torch.tensor([0.0, 4.999, 5.0, 7.0], dtype=torch.float64, requires_grad=True)
    value = polynomial_envelope(r, 5.0, p)
    assert value[0] == 1.0
    assert value[1] < 1e-8
    assert (value[2:] == 0).all()
    (slope,) = torch.autograd.grad(value.sum(), r)
    assert abs(slope[1]) < 1e-5
    assert (slope[2:] == 0).all()


def test_bessel_functions_are_orthonormal() -> None:
    cutoff = 5.0
    r = torch.linspace(1e-6, cutoff, 20001, dtype=torch.float64)
    basis = bessel_basis(r, bessel_frequencies(6, cutoff), cutoff)
    overlap = torch.trapezoid(basis.unsqueeze(2) * basis.unsqueeze(1) * r.square().view(-1, 1, 1), r, dim=0)
    np.testing.assert_allclose(overlap.numpy(), np.eye(6), atol=1e-6)


def test_agnesi_goes_from_one_to_zero() -> None:
    r = torch.tensor([1e-8, 1.0, 100.0], dtype=torch.float64)
    value = agnesi_transform(r, torch.ones(3, dtype=torch.float64), 0.9183, 4.5791, 1.0805)
    assert value[0] == pytest.approx(1.0, abs=1e-6)
    assert value[1] == pytest.approx(1 / (1 + 1.0805 / 2), rel=1e-12)
    assert value[2] < 0.05


def test_covalent_radii_are_those_of_ase() -> None:
    from ase.data import covalent_radii

    np.testing.assert_allclose(COVALENT_RADII, covalent_radii, atol=1e-12)
