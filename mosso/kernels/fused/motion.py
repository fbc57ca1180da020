# mypy: disallow-untyped-defs=False
"""Parts of a step of dynamics in Triton, one kernel each where plain torch takes 4 to 26; see reference/motion.py.

Times and temperatures are constants of the kernels, because Triton hands numbers over as float32.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused.launch import ceil_div, launch
from mosso.kernels.fused.noise import normals
from mosso.kernels.fused.overlap import await_inputs
from mosso.kernels.fused.segments import CHUNK, first_row, join, num_chunks
from mosso.kernels.reference.motion import DEGREE, SQUARINGS

BLOCK = 128  # atoms of a program
SYSTEMS = 32  # of a program
ROWS = 256  # of a system, read at a time and kept apart until the end


@triton.jit
def _kick(momenta, forces, free, out, num_values, DT: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr = False):
    await_inputs(OVERLAPS)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_values
    moves = tl.load(free + at // 3, mask=inside, other=0).to(tl.float64)
    pushed = tl.load(momenta + at, mask=inside) + DT * tl.load(forces + at, mask=inside) * moves
    tl.store(out + at, pushed, mask=inside)


@triton.jit
def _drift_in_bath(
    positions, momenta, masses, free, systems, index, seeds, step, new_positions, new_momenta, heats, num_atoms,
    STREAM: tl.constexpr, HALF: tl.constexpr, KEPT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):  # fmt: skip
    await_inputs(OVERLAPS)
    atom = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = atom < num_atoms
    mass = tl.load(masses + atom, mask=inside, other=1.0)
    seed = tl.load(seeds + tl.load(systems + atom, mask=inside, other=0), mask=inside, other=0)
    noise = normals(seed, tl.load(index + atom, mask=inside, other=0), tl.load(step), STREAM, BLOCK)
    width = tl.sqrt(mass * WIDTH * tl.load(free + atom, mask=inside, other=0).to(tl.float64))
    half = HALF / mass
    gained = tl.zeros((BLOCK,), tl.float64)
    for axis in tl.static_range(3):
        before = tl.load(momenta + 3 * atom + axis, mask=inside, other=0.0)
        after = KEPT * before + width * noise[axis]
        gained += (after - before) * (after + before)  # exactly zero without a bath
        place = tl.load(positions + 3 * atom + axis, mask=inside, other=0.0)
        tl.store(new_positions + 3 * atom + axis, place + half * before + half * after, mask=inside)
        tl.store(new_momenta + 3 * atom + axis, after, mask=inside)
    tl.store(heats + atom, gained / (2.0 * mass), mask=inside)


@triton.jit
def _kinetic_energy(momenta, masses, counts, out, ROWS: tl.constexpr, CHUNK: tl.constexpr, OVERLAPS: tl.constexpr = False):
    await_inputs(OVERLAPS)
    system, chunk = tl.program_id(0), tl.program_id(1)
    first, count = first_row(counts, system, 256), tl.minimum(tl.load(counts + system), (chunk + 1) * CHUNK)
    total = tl.zeros((ROWS,), tl.float64)
    for start in range(chunk * CHUNK, count, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = row < count
        x = tl.load(momenta + 3 * (first + row), mask=inside, other=0.0)
        y = tl.load(momenta + 3 * (first + row) + 1, mask=inside, other=0.0)
        z = tl.load(momenta + 3 * (first + row) + 2, mask=inside, other=0.0)
        total += (x * x + y * y + z * z) / (2.0 * tl.load(masses + first + row, mask=inside, other=1.0))
    tl.store(out + chunk * tl.num_programs(0) + system, tl.sum(total, axis=0))


@triton.jit
def _max_norm(vectors, free, counts, out, ROWS: tl.constexpr, CHUNK: tl.constexpr, OVERLAPS: tl.constexpr = False):
    await_inputs(OVERLAPS)
    system, chunk = tl.program_id(0), tl.program_id(1)
    first, count = first_row(counts, system, 256), tl.minimum(tl.load(counts + system), (chunk + 1) * CHUNK)
    longest = tl.zeros((ROWS,), tl.float64)
    strange = tl.zeros((ROWS,), tl.int32)
    for start in range(chunk * CHUNK, count, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = row < count
        inside &= tl.load(free + first + row, mask=inside, other=0) != 0
        x = tl.load(vectors + 3 * (first + row), mask=inside, other=0.0)
        y = tl.load(vectors + 3 * (first + row) + 1, mask=inside, other=0.0)
        z = tl.load(vectors + 3 * (first + row) + 2, mask=inside, other=0.0)
        length = tl.sqrt(x * x + y * y + z * z)
        longest = tl.where(length > longest, length, longest)
        strange = tl.where(length != length, 1, strange)
    result = tl.where(tl.max(strange, axis=0) > 0, float("nan"), tl.max(longest, axis=0))
    tl.store(out + chunk * tl.num_programs(0) + system, result)


@triton.jit
def _examine(
    energies, kinetic, freedom, forces, step, before, out, num_systems,
    HAS_BEFORE: tl.constexpr, BOLTZMANN: tl.constexpr, MAX_TEMPERATURE: tl.constexpr, MAX_FORCE: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):  # fmt: skip
    await_inputs(OVERLAPS)
    system = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = system < num_systems
    energy = tl.load(energies + system, mask=inside, other=0.0)
    force = tl.load(forces + system, mask=inside, other=0.0)
    temperature = 2.0 * tl.load(kinetic + system, mask=inside, other=0.0) / (BOLTZMANN * tl.load(freedom + system, mask=inside, other=1.0))
    # Comparisons with NaN are false, so "sane" is asked, not "bad".
    sane = (tl.abs(energy) < float("inf")) & (temperature <= MAX_TEMPERATURE) & (force <= MAX_FORCE)
    when = tl.where(sane, -1.0, tl.load(step).to(tl.float64))
    if HAS_BEFORE:
        earlier = tl.load(before + system, mask=inside, other=-1.0)
        known = earlier >= 0.0
        when = tl.where(known, earlier, when)
        energy = tl.where(known, tl.load(before + num_systems + system, mask=inside, other=0.0), energy)
        temperature = tl.where(known, tl.load(before + 2 * num_systems + system, mask=inside, other=0.0), temperature)
        force = tl.where(known, tl.load(before + 3 * num_systems + system, mask=inside, other=0.0), force)
    tl.store(out + system, when, mask=inside)
    tl.store(out + num_systems + system, energy, mask=inside)
    tl.store(out + 2 * num_systems + system, temperature, mask=inside)
    tl.store(out + 3 * num_systems + system, force, mask=inside)


@triton.jit
def _product(a, b):
    """Of matrices given as tuples of their nine entries."""
    return (
        a[0] * b[0] + a[1] * b[3] + a[2] * b[6], a[0] * b[1] + a[1] * b[4] + a[2] * b[7], a[0] * b[2] + a[1] * b[5] + a[2] * b[8],
        a[3] * b[0] + a[4] * b[3] + a[5] * b[6], a[3] * b[1] + a[4] * b[4] + a[5] * b[7], a[3] * b[2] + a[4] * b[5] + a[5] * b[8],
        a[6] * b[0] + a[7] * b[3] + a[8] * b[6], a[6] * b[1] + a[7] * b[4] + a[8] * b[7], a[6] * b[2] + a[7] * b[5] + a[8] * b[8],
    )  # fmt: skip


@triton.jit
def _one_and(a, factor):
    """Unit matrix + factor a."""
    return (
        1.0 + a[0] * factor, a[1] * factor, a[2] * factor,
        a[3] * factor, 1.0 + a[4] * factor, a[5] * factor,
        a[6] * factor, a[7] * factor, 1.0 + a[8] * factor,
    )  # fmt: skip


@triton.jit
def _exponential(
    matrices, out, num_systems, DEGREE: tl.constexpr, SQUARINGS: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr = False
):
    await_inputs(OVERLAPS)
    system = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside, at = system < num_systems, matrices + 9 * system
    share = 1.0 / 2**SQUARINGS
    u = (
        tl.load(at, inside, 0.0) * share, tl.load(at + 1, inside, 0.0) * share, tl.load(at + 2, inside, 0.0) * share,
        tl.load(at + 3, inside, 0.0) * share, tl.load(at + 4, inside, 0.0) * share, tl.load(at + 5, inside, 0.0) * share,
        tl.load(at + 6, inside, 0.0) * share, tl.load(at + 7, inside, 0.0) * share, tl.load(at + 8, inside, 0.0) * share,
    )  # fmt: skip
    power = _one_and(u, 1.0 / DEGREE)
    for step in tl.static_range(1, DEGREE):
        power = _one_and(_product(u, power), 1.0 / (DEGREE - step))
    for _ in tl.static_range(SQUARINGS):
        power = _product(power, power)
    for entry in tl.static_range(9):
        tl.store(out + 9 * system + entry, power[entry], mask=inside)


def kick(momenta_N3: Tensor, forces_N3: Tensor, free_N: Tensor, dt: float) -> Tensor:
    """(N, 3): see ``reference.motion.kick``."""
    momenta, forces, free = momenta_N3.contiguous(), forces_N3.contiguous(), free_N.contiguous()
    out = torch.empty_like(momenta)
    if out.numel():
        launch(_kick, (ceil_div(out.numel(), BLOCK),), momenta, forces, free, out, out.numel(), DT=dt, BLOCK=BLOCK)
    return out


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
    """(N, 3), (N, 3) and (N,): see ``reference.motion.drift_in_bath``."""
    inputs = [t.contiguous() for t in (positions_N3, momenta_N3, masses_N, free_N, system_N, index_N, seeds_B)]
    results = torch.empty_like(inputs[0]), torch.empty_like(inputs[1]), torch.empty_like(inputs[2])
    constants = {"STREAM": stream, "HALF": 0.5 * dt, "KEPT": math.exp(-decay), "WIDTH": -math.expm1(-2.0 * decay) * kelvin}
    if num_atoms := len(masses_N):
        launch(_drift_in_bath, (ceil_div(num_atoms, BLOCK),), *inputs, step, *results, num_atoms, **constants, BLOCK=BLOCK)
    return results


def kinetic_energy(momenta_N3: Tensor, masses_N: Tensor, counts_B: Tensor) -> Tensor:
    """(B,): see ``reference.motion.kinetic_energy``."""
    return _of_systems(_kinetic_energy, momenta_N3, masses_N, counts_B, maximum=False)


def max_norm(vectors_N3: Tensor, free_N: Tensor, counts_B: Tensor) -> Tensor:
    """(B,): see ``reference.motion.max_norm``."""
    return _of_systems(_max_norm, vectors_N3, free_N, counts_B, maximum=True)


def _of_systems(kernel: Any, vectors_N3: Tensor, of_atoms_N: Tensor, counts_B: Tensor, maximum: bool) -> Tensor:
    """(B,) what ``kernel`` makes of chunks of the atoms of each system, added up, or the largest of it."""
    chunks = num_chunks(len(vectors_N3))
    parts = vectors_N3.new_empty(chunks, len(counts_B))
    if len(counts_B):
        inputs = [t.contiguous() for t in (vectors_N3, of_atoms_N, counts_B)]
        launch(kernel, (len(counts_B), chunks), *inputs, parts, ROWS=ROWS, CHUNK=CHUNK, num_warps=8)
    return join(parts, maximum)


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
    """(4, B): see ``reference.motion.examine``."""
    out_4B = energy_B.new_empty(4, len(energy_B))
    if num_systems := len(energy_B):
        # Without a step before, its place is taken by a tensor that is not read.
        tensors = [t.contiguous() for t in (energy_B, kinetic_B, freedom_B, force_B, step, out_4B if before_4B is None else before_4B)]
        limits = {"BOLTZMANN": boltzmann, "MAX_TEMPERATURE": max_temperature, "MAX_FORCE": max_force}
        sizes = {"HAS_BEFORE": before_4B is not None, "BLOCK": BLOCK}
        launch(_examine, (ceil_div(num_systems, BLOCK),), *tensors, out_4B, num_systems, **limits, **sizes)
    return out_4B


def exponential(u_B33: Tensor) -> Tensor:
    """(B, 3, 3) float64: see ``reference.motion.exponential``; not differentiable."""
    matrices_B33 = u_B33.contiguous()
    out_B33 = torch.empty_like(matrices_B33)
    if num_systems := len(out_B33):
        sizes = {"DEGREE": DEGREE, "SQUARINGS": SQUARINGS, "BLOCK": SYSTEMS, "num_warps": 1}
        launch(_exponential, (ceil_div(num_systems, SYSTEMS),), matrices_B33, out_B33, num_systems, **sizes)
    return out_B33
