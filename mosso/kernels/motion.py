"""Ops of dynamics, in plain torch or in Triton: see dispatch.py for how the choice is made.

All are functions of float64 tensors and, but for the reference of ``exponential``, not differentiable; ``implementation`` is auto,
reference or triton.
"""

import torch
from torch import Tensor

from mosso.kernels.dispatch import choose
from mosso.kernels.reference import motion, noise, thermostat


def gaussian(seeds_N: Tensor, index_N: Tensor, step: Tensor, stream: int, implementation: str = "auto") -> Tensor:
    """(N, 3) float64: see ``reference.noise.gaussian``."""
    if choose(implementation, "gaussian", step.new_empty(0, dtype=torch.float64)) == "reference":
        return noise.gaussian(seeds_N, index_N, step, stream)
    from mosso.kernels.fused import noise as fused

    return fused.gaussian(seeds_N, index_N, step, stream)


def kick(momenta_N3: Tensor, forces_N3: Tensor, free_N: Tensor, dt: float, implementation: str = "auto") -> Tensor:
    """(N, 3): see ``reference.motion.kick``."""
    if choose(implementation, "motion", momenta_N3, forces_N3) == "reference":
        return motion.kick(momenta_N3, forces_N3, free_N, dt)
    from mosso.kernels.fused import motion as fused

    return fused.kick(momenta_N3, forces_N3, free_N, dt)


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
    implementation: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 3), (N, 3) and (N,): see ``reference.motion.drift_in_bath``."""
    arguments = (positions_N3, momenta_N3, masses_N, free_N, system_N, index_N, seeds_B, step, stream, dt, decay, kelvin)
    if choose(implementation, "motion", positions_N3, momenta_N3, masses_N) == "reference":
        return motion.drift_in_bath(*arguments)
    from mosso.kernels.fused import motion as fused

    return fused.drift_in_bath(*arguments)


def kinetic_energy(momenta_N3: Tensor, masses_N: Tensor, counts_B: Tensor, implementation: str = "auto") -> Tensor:
    """(B,): see ``reference.motion.kinetic_energy``."""
    if choose(implementation, "motion", momenta_N3, masses_N) == "reference":
        return motion.kinetic_energy(momenta_N3, masses_N, counts_B)
    from mosso.kernels.fused import motion as fused

    return fused.kinetic_energy(momenta_N3, masses_N, counts_B)


def max_norm(vectors_N3: Tensor, free_N: Tensor, counts_B: Tensor, implementation: str = "auto") -> Tensor:
    """(B,): see ``reference.motion.max_norm``."""
    if choose(implementation, "motion", vectors_N3) == "reference":
        return motion.max_norm(vectors_N3, free_N, counts_B)
    from mosso.kernels.fused import motion as fused

    return fused.max_norm(vectors_N3, free_N, counts_B)


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
    implementation: str = "auto",
) -> Tensor:
    """(4, B): see ``reference.motion.examine``."""
    arguments = (energy_B, kinetic_B, freedom_B, force_B, step, before_4B, boltzmann, max_temperature, max_force)
    if choose(implementation, "motion", energy_B, kinetic_B, freedom_B, force_B) == "reference":
        return motion.examine(*arguments)
    from mosso.kernels.fused import motion as fused

    return fused.examine(*arguments)


def nose_hoover_chain(
    chain_B2M: Tensor,
    mass_BM: Tensor,
    twice_kinetic_B: Tensor,
    freedom_B: Tensor,
    kelvin: float,
    dt: float,
    implementation: str = "auto",
) -> tuple[Tensor, Tensor]:
    """(B, 2, M) and (B,): see ``reference.thermostat.nose_hoover_chain``."""
    arguments = (chain_B2M, mass_BM, twice_kinetic_B, freedom_B, kelvin, dt)
    if choose(implementation, "motion", chain_B2M, mass_BM, twice_kinetic_B) == "reference":
        return thermostat.nose_hoover_chain(*arguments)
    from mosso.kernels.fused import thermostat as fused

    return fused.nose_hoover_chain(*arguments)


def exponential(u_B33: Tensor, implementation: str = "auto") -> Tensor:
    """(B, 3, 3): see ``reference.motion.exponential``; where a derivative may be asked for, auto takes the reference."""
    wanted = "reference" if implementation == "auto" and u_B33.requires_grad else implementation
    if choose(wanted, "motion", u_B33) == "reference":
        return motion.exponential(u_B33)
    from mosso.kernels.fused import motion as fused

    return fused.exponential(u_B33)
