"""Screened repulsion of nuclei in plain torch: the specification of fused/repulsion.py."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mosso.kernels.reference.sums import segment_sum
from mosso.math.radial import polynomial_envelope


def pair_repulsion(
    vectors_E3: Tensor,
    species_N: Tensor,
    pairs_SS3: Tensor,
    coefficients: Sequence[float],
    exponents: Sequence[float],
    power: int,
    senders_E: Tensor,
    receivers_E: Tensor,
    receiver_offsets: Tensor,
) -> Tensor:
    """(N,) float64: what each receiver has of the repulsion over its edges, smooth to zero at a radius of the pair.

    An edge of length r gives q / r phi(r / a) f(r / R), with phi(x) the sum of c exp(-e x) (Ziegler, Biersack, Littmark, The Stopping
    and Range of Ions in Solids, 1985) and f the polynomial envelope (``mosso.math.radial.polynomial_envelope``).

    Args:
        vectors_E3: float64, of the edges; those behind the last offset are padding and add nothing.
        species_N: (N,) int64.
        pairs_SS3: (S, S, 3) float64, q, 1 / a and R of a sender's and a receiver's species.
        coefficients, exponents: c and e of the screening function.
        power: of the envelope, at least 1.
        senders_E, receivers_E, receiver_offsets: as in ``edge_convolution``.
    """
    num_nodes = receiver_offsets.shape[0] - 1
    charge_E, inverse_E, radius_E = pairs_SS3[species_N[senders_E], species_N[receivers_E]].unbind(1)
    distance_E = torch.linalg.vector_norm(vectors_E3, dim=1)
    reduced_E = distance_E * inverse_E
    screening_E = sum(c * torch.exp(-e * reduced_E) for c, e in zip(coefficients, exponents, strict=True))
    energy_E = charge_E / distance_E * screening_E * polynomial_envelope(distance_E, radius_E, power)
    real_E = torch.arange(len(senders_E), device=senders_E.device) < receiver_offsets[-1]
    return segment_sum(energy_E, torch.where(real_E, receivers_E, num_nodes), num_nodes + 1)[:num_nodes]
