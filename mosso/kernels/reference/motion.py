"""Parts of a step of dynamics in plain torch: the specification of fused/motion.py.

All in float64 and one consistent set of units.
"""

import math

import torch
from torch import Tensor

from mosso.kernels.reference.noise import gaussian
from mosso.kernels.reference.sums import max_segments, sum_segments

# exp(u) = (Taylor polynomial of u / 2^4)^(2^4): for |u| <= 2 the first term left out is below 1e-16.
SQUARINGS, DEGREE = 4, 11


def kick(momenta_N3: Tensor, forces_N3: Tensor, free_N: Tensor, dt: float) -> Tensor:
    """(N, 3) momenta of the atoms that move (``free_N``, bool) pushed by the forces for a time ``dt``."""
    return momenta_N3 + dt * forces_N3 * free_N.unsqueeze(1)


def drift_in_bath(
    positions_N3: Tensor,
    momenta_N3: Tensor,
    masses_N: Tensor,
    free_N: Tensor,
    system_N: Tensor,
    index_N: Tensor,
    seeds_B: Tensor,
    step: Tensor,
    stream: int,
    dt: float,
    decay: float,
    kelvin: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Half a drift, friction and noise, half a drift: the middle of BAOAB (Leimkuhler & Matthews, Appl. Math. Res. Express 2013, 34).

    Friction and noise are the exact Ornstein-Uhlenbeck step p' = c p + sqrt((1 - c^2) m kT) noise with c = exp(-decay).

    Args:
        positions_N3, momenta_N3, masses_N: of the atoms.
        free_N: (N,) bool, which atoms move; the others have no noise.
        system_N, index_N, seeds_B, step, stream: where the noise comes from, see ``gaussian``.
        dt: time of the whole drift.
        decay: friction times the time of the step.
        kelvin: kT.

    Returns:
        Positions and momenta after it, and (N,) what kinetic energy the bath gave each atom.
    """
    half_N1 = (0.5 * dt / masses_N).unsqueeze(1)
    normal_N3 = gaussian(seeds_B[system_N], index_N, step, stream)
    width_N1 = torch.sqrt(masses_N * (-math.expm1(-2.0 * decay) * kelvin) * free_N).unsqueeze(1)
    after_N3 = math.exp(-decay) * momenta_N3 + width_N1 * normal_N3
    heat_N = ((after_N3 - momenta_N3) * (after_N3 + momenta_N3)).sum(1) / (2.0 * masses_N)
    return positions_N3 + half_N1 * momenta_N3 + half_N1 * after_N3, after_N3, heat_N


def kinetic_energy(momenta_N3: Tensor, masses_N: Tensor, counts_B: Tensor) -> Tensor:
    """(B,) of systems of ``counts_B`` (int64) consecutive atoms."""
    return sum_segments(momenta_N3.square().sum(1) / (2.0 * masses_N), counts_B)


def max_norm(vectors_N3: Tensor, free_N: Tensor, counts_B: Tensor) -> Tensor:
    """(B,) length of the longest vector of each system, of atoms that move (``free_N``, bool); NaN where one is not a number."""
    return max_segments(torch.linalg.vector_norm(vectors_N3, dim=1).where(free_N, 0.0), counts_B)


def examine(
    energy_B: Tensor,
    kinetic_B: Tensor,
    freedom_B: Tensor,
    force_B: Tensor,
    step: Tensor,
    before_4B: Tensor | None,
    boltzmann: float,
    max_temperature: float,
    max_force: float,
) -> Tensor:
    """(4, B): the first step at which a system was out of reason, -1 for none, and its energy, temperature and largest force then;
    now where that is none.

    Out of reason is an energy that is not finite, a temperature 2 K / (freedom k) or a force above what is given, or not a number.

    Args:
        energy_B, kinetic_B, force_B: potential and kinetic energy and the largest force of each system.
        freedom_B: degrees of freedom.
        step: () int64.
        before_4B: what this gave after the step before, None at the start.
        boltzmann: k, energy per unit of temperature.
    """
    temperature_B = 2.0 * kinetic_B / (boltzmann * freedom_B)
    # Comparisons with NaN are false, so "sane" is asked, not "bad".
    sane_B = torch.isfinite(energy_B) & (temperature_B <= max_temperature) & (force_B <= max_force)
    step_B = torch.where(sane_B, -1.0, step.to(torch.float64))
    now_4B = torch.stack([step_B, energy_B, temperature_B, force_B])
    return now_4B if before_4B is None else torch.where(before_4B[0] >= 0.0, before_4B, now_4B)


def exponential(u_B33: Tensor) -> Tensor:
    """(B, 3, 3) matrix exponentials for |u| of a few at most; products and sums only, so that it is differentiable and can be
    captured (``torch.linalg.matrix_exp`` reads norms back to the host)."""
    small_B33 = u_B33 / 2**SQUARINGS
    eye_33 = torch.eye(3, dtype=u_B33.dtype, device=u_B33.device)
    power_B33 = eye_33 + small_B33 / DEGREE
    for degree in range(DEGREE - 1, 0, -1):
        power_B33 = torch.baddbmm(eye_33, small_B33, power_B33, alpha=1.0 / degree)
    for _ in range(SQUARINGS):
        power_B33 = power_B33 @ power_B33
    return power_B33
