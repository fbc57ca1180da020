"""Radial functions: basis, envelope, distance transform."""

from math import pi

import torch
from torch import Tensor

# Angstrom by atomic number, Cordero et al., Dalton Trans. 2832 (2008); 0.2 where unknown, as in ASE.
COVALENT_RADII = (
    0.2,
    0.31,
    0.28,
    1.28,
    0.96,
    0.84,
    0.76,
    0.71,
    0.66,
    0.57,
    0.58,
    1.66,
    1.41,
    1.21,
    1.11,
    1.07,
    1.05,
    1.02,
    1.06,
    2.03,
    1.76,
    1.7,
    1.6,
    1.53,
    1.39,
    1.39,
    1.32,
    1.26,
    1.24,
    1.32,
    1.22,
    1.22,
    1.2,
    1.19,
    1.2,
    1.2,
    1.16,
    2.2,
    1.95,
    1.9,
    1.75,
    1.64,
    1.54,
    1.47,
    1.46,
    1.42,
    1.39,
    1.45,
    1.44,
    1.42,
    1.39,
    1.39,
    1.38,
    1.39,
    1.4,
    2.44,
    2.15,
    2.07,
    2.04,
    2.03,
    2.01,
    1.99,
    1.98,
    1.98,
    1.96,
    1.94,
    1.92,
    1.92,
    1.89,
    1.9,
    1.87,
    1.87,
    1.75,
    1.7,
    1.62,
    1.51,
    1.44,
    1.41,
    1.36,
    1.36,
    1.32,
    1.45,
    1.46,
    1.48,
    1.4,
    1.5,
    1.5,
    2.6,
    2.21,
    2.15,
    2.06,
    2,
    1.96,
    1.9,
    1.87,
    1.8,
    1.69,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
    2,
)


def polynomial_envelope(distance_E: Tensor, cutoff: Tensor | float, p: int | Tensor) -> Tensor:
    """Polynomial cutoff with p - 1 vanishing derivatives, exactly zero from ``cutoff`` on.

    Gasteiger et al., Directional Message Passing (2020), equation 8.
    """
    u = distance_E / cutoff
    envelope = 1.0 - 0.5 * (p + 1.0) * (p + 2.0) * u**p + p * (p + 2.0) * u ** (p + 1) - 0.5 * p * (p + 1.0) * u ** (p + 2)
    return envelope * (distance_E < cutoff)


def bessel_basis(distance_E: Tensor, frequencies_K: Tensor, cutoff: float) -> Tensor:
    """(E, K) spherical Bessel functions sqrt(2/rc) sin(w_k r) / r, w_k = k pi / rc (1/Angstrom) by default.

    Gasteiger et al. (2020), equation 7.
    """
    distance_E1 = distance_E.unsqueeze(-1)
    return (2.0 / cutoff) ** 0.5 * torch.sin(frequencies_K * distance_E1) / distance_E1


def bessel_frequencies(num_bessel: int, cutoff: float) -> Tensor:
    """(K,) float64, k pi / cutoff."""
    return pi / cutoff * torch.arange(1, num_bessel + 1, dtype=torch.float64)


def agnesi_transform(distance_E: Tensor, bond_length_E: Tensor, q: Tensor | float, p: Tensor | float, a: Tensor | float) -> Tensor:
    """Distance mapped to (0, 1): 1 / (1 + a (r/r0)^q / (1 + (r/r0)^(q-p))).

    Witt et al., ACEpotentials.jl, J. Chem. Phys. 159, 164101 (2023). ``bond_length_E`` is r0 of the pair in Angstrom.
    """
    x = distance_E / bond_length_E
    return 1.0 / (1.0 + a * x**q / (1.0 + x ** (q - p)))
