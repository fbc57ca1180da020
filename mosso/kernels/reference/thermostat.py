"""Nose-Hoover chains in plain torch: the specification of fused/thermostat.py."""

import torch
from torch import Tensor

# Weights of a fourth-order splitting (Suzuki; Yoshida, Phys. Lett. A 150, 262 (1990)).
SUZUKI_YOSHIDA = (1.0 / (2.0 - 2.0 ** (1.0 / 3.0)), 1.0 - 2.0 / (2.0 - 2.0 ** (1.0 / 3.0)), 1.0 / (2.0 - 2.0 ** (1.0 / 3.0)))


def nose_hoover_chain(
    chain_B2M: Tensor, mass_BM: Tensor, twice_kinetic_B: Tensor, freedom_B: Tensor, kelvin: float, dt: float
) -> tuple[Tensor, Tensor]:
    """A chain of M thermostats moved by ``dt``: the chain after it, and (B,) what it multiplies momenta by.

    Martyna et al., Mol. Phys. 87, 1117 (1996), section 4; all in float64 and one consistent set of units.

    Args:
        chain_B2M: (B, 2, M) positions and velocities.
        mass_BM: (B, M) their masses.
        twice_kinetic_B: (B,) twice the kinetic energy of the atoms.
        freedom_B: (B,) degrees of freedom.
        kelvin: kT.
        dt: time.
    """
    last = chain_B2M.shape[2] - 1
    position_BM, velocity_BM = chain_B2M.unbind(1)
    x, v, mass = list(position_BM.unbind(1)), list(velocity_BM.unbind(1)), mass_BM.unbind(1)
    scale_B = torch.ones_like(twice_kinetic_B)

    def push(link: int, h: float) -> None:
        force_B = mass[link - 1] * v[link - 1].square() - kelvin if link else twice_kinetic_B - freedom_B * kelvin
        damp_B = torch.exp(-0.25 * h * v[link + 1]) if link < last else 1.0
        v[link] = (v[link] * damp_B + 0.5 * h * force_B / mass[link]) * damp_B

    for weight in SUZUKI_YOSHIDA:
        h = weight * dt
        for link in range(last, -1, -1):
            push(link, h)
        factor_B = torch.exp(-h * v[0])
        scale_B, twice_kinetic_B = scale_B * factor_B, twice_kinetic_B * factor_B.square()
        x = [position_B + h * velocity_B for position_B, velocity_B in zip(x, v, strict=True)]
        for link in range(last + 1):
            push(link, h)
    return torch.stack([torch.stack(x, 1), torch.stack(v, 1)], 1), scale_B
