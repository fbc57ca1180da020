# mypy: disallow-untyped-defs=False
"""Nose-Hoover chains in Triton: one kernel in place of two hundred, one thread per system; see reference/thermostat.py."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused.launch import ceil_div, launch
from mosso.kernels.fused.overlap import await_inputs
from mosso.kernels.reference.thermostat import SUZUKI_YOSHIDA

BLOCK = 32  # systems of a program
_OUTER, _INNER = tl.constexpr(SUZUKI_YOSHIDA[0]), tl.constexpr(SUZUKI_YOSHIDA[1])


@triton.jit
def _link(values, column, link):
    """(systems,) one column."""
    return tl.sum(tl.where(column == link, values, 0.0), axis=1)


@triton.jit
def _push(velocity, mass, column, twice_kinetic, freedom, link, h, KELVIN: tl.constexpr, LAST: tl.constexpr):
    """The velocities with that of one link half a step on."""
    before = tl.maximum(link - 1, 0)
    of_link = _link(mass, column, before) * _link(velocity, column, before) * _link(velocity, column, before) - KELVIN
    force = tl.where(link > 0, of_link, twice_kinetic - freedom * KELVIN)
    damp = tl.where(link < LAST, tl.exp(-0.25 * h * _link(velocity, column, link + 1)), 1.0)
    after = (_link(velocity, column, link) * damp + 0.5 * h * force / _link(mass, column, link)) * damp
    return tl.where(column == link, after[:, None], velocity)


@triton.jit
def _nose_hoover(
    chain, masses, twice_kinetic, freedom, out, scales, num_systems,
    KELVIN: tl.constexpr, DT: tl.constexpr, LINKS: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr = False,
):  # fmt: skip
    await_inputs(OVERLAPS)
    system = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = system < num_systems
    column = tl.arange(0, PADDED)[None, :]
    live = inside[:, None] & (column < LINKS)
    at = system[:, None] * (2 * LINKS) + column
    position = tl.load(chain + at, mask=live, other=0.0)
    velocity = tl.load(chain + at + LINKS, mask=live, other=0.0)
    mass = tl.load(masses + system[:, None] * LINKS + column, mask=live, other=1.0)
    energy = tl.load(twice_kinetic + system, mask=inside, other=0.0)
    count = tl.load(freedom + system, mask=inside, other=0.0)
    scale = tl.full((BLOCK,), 1.0, tl.float64)
    for part in range(3):
        h = tl.where(part == 1, tl.full((BLOCK,), _INNER * DT, tl.float64), tl.full((BLOCK,), _OUTER * DT, tl.float64))
        for link in range(LINKS):
            velocity = _push(velocity, mass, column, energy, count, LINKS - 1 - link, h, KELVIN, LINKS - 1)
        factor = tl.exp(-h * _link(velocity, column, 0))
        scale *= factor
        energy *= factor * factor
        position += h[:, None] * velocity
        for link in range(LINKS):
            velocity = _push(velocity, mass, column, energy, count, link, h, KELVIN, LINKS - 1)
    tl.store(out + at, position, mask=live)
    tl.store(out + at + LINKS, velocity, mask=live)
    tl.store(scales + system, scale, mask=inside)


def nose_hoover_chain(
    chain_B2M: Tensor, mass_BM: Tensor, twice_kinetic_B: Tensor, freedom_B: Tensor, kelvin: float, dt: float
) -> tuple[Tensor, Tensor]:
    """(B, 2, M) and (B,): see ``reference.thermostat.nose_hoover_chain``."""
    num_systems, _, links = chain_B2M.shape
    out, scale_B = torch.empty_like(chain_B2M), torch.empty_like(twice_kinetic_B)
    if num_systems:
        tensors = [t.contiguous() for t in (chain_B2M, mass_BM, twice_kinetic_B, freedom_B)]
        sizes = {"LINKS": links, "PADDED": triton.next_power_of_2(links), "BLOCK": BLOCK, "num_warps": 1}
        launch(_nose_hoover, (ceil_div(num_systems, BLOCK),), *tensors, out, scale_B, num_systems, KELVIN=kelvin, DT=dt, **sizes)
    return out, scale_B
