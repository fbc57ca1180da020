"""Relaxation of many structures at once, positions and optionally cells, by FIRE."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosso.data.structure import Batch, Structure
from mosso.dynamics.state import Evaluation, ForceField, free_atoms, make_batch, max_systems, sum_systems
from mosso.dynamics.strain import deform, exponential
from mosso.dynamics.units import BAR
from mosso.graph.verlet import VerletList

# Parameters of the paper's table and of ASE; time in ASE's units with unit masses.
_DT_START, _DT_MAX, _GROW, _SHRINK, _ALPHA_START, _ALPHA_DECAY, _PATIENCE = 0.1, 1.0, 1.1, 0.5, 0.1, 0.99, 5
MAX_DISPLACEMENT = 0.2  # A, of an atom in one step
MAX_STRAIN = 0.05  # of the logarithm of the deformation in one step
MAX_FORCE = 1e8  # eV/A, beyond this the structure is beyond relaxing


@dataclass(frozen=True, eq=False)
class RelaxRow:
    """Where a relaxation stands: step and (B,) arrays of energies (eV), largest forces (eV/A) and converged systems."""

    step: int
    energies: np.ndarray
    max_forces: np.ndarray
    converged: np.ndarray


@dataclass(frozen=True, eq=False)
class RelaxResult:
    """B relaxed systems.

    Attributes:
        structures: with the final positions and cells; ``labels`` hold the potential's energy, forces and, with a relaxed
            cell, stress at them.
        converged: (B,) bool.
        num_steps: (B,) int, steps taken until converged or given up.
        energies: (B,) eV.
        max_forces: (B,) eV/A, what is compared with fmax.
    """

    structures: list[Structure]
    converged: np.ndarray
    num_steps: np.ndarray
    energies: np.ndarray
    max_forces: np.ndarray


@dataclass(frozen=True, eq=False)
class _Walk:
    """Coordinates of the search. Positions follow the cell: r = x F^T and cell = cell0 F^T with F = expm(u)."""

    x_N3: Tensor  # positions as they would be in the undeformed cell, A
    u_B33: Tensor  # logarithm of the deformation gradient, symmetric
    velocity_N3: Tensor
    rate_B33: Tensor  # velocity of u times the number of atoms
    dt_B: Tensor
    alpha_B: Tensor
    downhill_B: Tensor  # steps since the last uphill one


def relax(
    potential: ForceField,
    structures: Any,
    *,
    fmax: float = 0.01,
    steps: int = 500,
    cell: bool = False,
    pressure: float = 0.0,
    on_step: Callable[[RelaxRow], None] | None = None,
    skin: float = 1.0,
) -> RelaxResult:
    """Moves atoms (and cells) downhill until the largest force is at most ``fmax``.

    FIRE (Bitzek et al., Phys. Rev. Lett. 97, 170201 (2006)) in ASE's form, with time step, mixing and counters of its own for
    every system; systems that have converged stand still. Cells move in the logarithm of the deformation, as with ASE's
    FrechetCellFilter: coordinates u times N, forces -dH/du over N, with H = E + P V. With ``cell`` the rows of that 3 x 3
    force (eV) are held to ``fmax`` as well. Atoms that a structure calls ``fixed`` stay, or move with the cell only.

    Args:
        potential: the force field.
        structures: one or several structures.
        fmax: eV/A.
        steps: at most so many.
        cell: relax the cells too; all systems must be periodic in three directions.
        pressure: bar, with ``cell`` only.
        on_step: called with a RelaxRow after every evaluation.
        skin: Angstrom, of the neighbour list.
    """
    checked, batch0 = make_batch(potential, structures)
    if not fmax > 0.0 or steps < 0:
        raise ValueError(f"fmax={fmax} eV/A, steps={steps}: give a positive force and zero steps or more.")
    if cell and not bool(batch0.pbc_B3.all()):
        system = int(torch.nonzero(~batch0.pbc_B3.all(1))[0])
        raise ValueError(f"System {system} is not periodic in three directions, so its cell cannot be relaxed: relax without the cell.")
    if pressure != 0.0 and not cell:
        raise ValueError("A pressure acts on the cell only: relax the cell too, or leave the pressure out.")
    free_N1 = free_atoms(checked, batch0.positions_N3.device).unsqueeze(1)
    counts_B = torch.bincount(batch0.system_N, minlength=batch0.num_systems)
    neighbors = VerletList(potential.cutoff, skin=skin)
    walk, batch = _begin(batch0), batch0
    num_steps_B = torch.zeros_like(counts_B)
    converged_B = torch.zeros_like(counts_B, dtype=torch.bool)

    for step in range(steps + 1):
        output = potential.evaluate(batch, neighbors.update(batch), stress=cell)
        force_N3, pull_B33 = _generalised_forces(walk, batch, counts_B, output, free_N1, pressure * BAR if cell else None)
        assert output.forces is not None
        largest_B = _largest(output.forces.detach() * free_N1, pull_B33, counts_B)
        _check(output.energy, largest_B, step)
        converged_B = converged_B | (largest_B <= fmax)
        row = RelaxRow(step, output.energy.detach().cpu().numpy().copy(), largest_B.cpu().numpy().copy(), converged_B.cpu().numpy().copy())
        if on_step is not None:
            on_step(row)
        if step == steps or bool(converged_B.all()):
            break
        moved = fire(walk, force_N3, pull_B33, counts_B, batch.system_N, first=step == 0)
        walk = _select(~converged_B, moved, walk, batch.system_N)
        num_steps_B += ~converged_B
        batch = _place(walk, batch0, cell)
    return RelaxResult(_structures(checked, batch, output), row.converged, num_steps_B.cpu().numpy(), row.energies, row.max_forces)


def fire(walk: _Walk, force_N3: Tensor, pull_B33: Tensor, counts_B: Tensor, system_N: Tensor, first: bool) -> _Walk:
    """One FIRE step of every system: mix velocities, adapt the time step, move."""

    def dot(a_N3: Tensor, a_B33: Tensor, b_N3: Tensor, b_B33: Tensor) -> Tensor:
        return sum_systems((a_N3 * b_N3).sum(1), counts_B) + (a_B33 * b_B33).sum((1, 2))

    velocity_N3, rate_B33, dt_B, alpha_B, downhill_B = walk.velocity_N3, walk.rate_B33, walk.dt_B, walk.alpha_B, walk.downhill_B
    if not first:
        power_B = dot(force_N3, pull_B33, velocity_N3, rate_B33)
        good_B = power_B > 0.0
        speed_B = torch.sqrt(dot(velocity_N3, rate_B33, velocity_N3, rate_B33))
        size_B = torch.sqrt(dot(force_N3, pull_B33, force_N3, pull_B33)).clamp(min=1e-300)
        keep_B = torch.where(good_B, 1.0 - alpha_B, 0.0)
        steer_B = torch.where(good_B, alpha_B * speed_B / size_B, 0.0)
        velocity_N3 = keep_B[system_N].unsqueeze(1) * velocity_N3 + steer_B[system_N].unsqueeze(1) * force_N3
        rate_B33 = keep_B[:, None, None] * rate_B33 + steer_B[:, None, None] * pull_B33
        faster_B = good_B & (downhill_B > _PATIENCE)
        dt_B = torch.where(good_B, torch.where(faster_B, (dt_B * _GROW).clamp(max=_DT_MAX), dt_B), dt_B * _SHRINK)
        alpha_B = torch.where(good_B, torch.where(faster_B, alpha_B * _ALPHA_DECAY, alpha_B), _ALPHA_START)
        downhill_B = torch.where(good_B, downhill_B + 1, 0)
    velocity_N3 = velocity_N3 + dt_B[system_N].unsqueeze(1) * force_N3
    rate_B33 = rate_B33 + dt_B[:, None, None] * pull_B33
    move_N3 = dt_B[system_N].unsqueeze(1) * velocity_N3
    strain_B33 = (dt_B / counts_B)[:, None, None] * rate_B33
    farthest_B = max_systems(torch.linalg.vector_norm(move_N3, dim=1), counts_B).clamp(min=1e-300)
    widest_B = torch.linalg.vector_norm(strain_B33, dim=(1, 2)).clamp(min=1e-300)
    limit_B = torch.minimum(MAX_DISPLACEMENT / farthest_B, MAX_STRAIN / widest_B).clamp(max=1.0)
    x_N3 = walk.x_N3 + limit_B[system_N].unsqueeze(1) * move_N3
    u_B33 = walk.u_B33 + limit_B[:, None, None] * strain_B33
    return _Walk(x_N3, u_B33, velocity_N3, rate_B33, dt_B, alpha_B, downhill_B)


def _begin(batch: Batch) -> _Walk:
    zero_B33 = torch.zeros_like(batch.cell_B33)
    one_B = torch.ones_like(batch.cell_B33[:, 0, 0])
    count_B = torch.zeros_like(one_B, dtype=torch.int64)
    still_N3 = torch.zeros_like(batch.positions_N3)
    return _Walk(batch.positions_N3, zero_B33, still_N3, zero_B33, _DT_START * one_B, _ALPHA_START * one_B, count_B)


def _generalised_forces(
    walk: _Walk, batch: Batch, counts_B: Tensor, output: Evaluation, free_N1: Tensor, pressure: float | None
) -> tuple[Tensor, Tensor]:
    """(N, 3) -dH/dx in eV/A and (B, 3, 3) -dH/du over the number of atoms in eV; the latter zero without a pressure given.

    With F = expm(u): dH/dF = V (stress + P) F^-T, and the chain rule through expm is torch's own.
    """
    assert output.forces is not None
    force_N3 = output.forces.detach() * free_N1
    if pressure is None:
        return force_N3, torch.zeros_like(walk.u_B33)
    assert output.stress is not None
    with torch.enable_grad():
        u_B33 = walk.u_B33.clone().requires_grad_()
        deformation_B33 = exponential(u_B33)
    total_B33 = output.stress.detach() + pressure * torch.eye(3, dtype=u_B33.dtype, device=u_B33.device)
    inverse_B33 = exponential(-walk.u_B33)
    slope_B33 = batch.volume_B[:, None, None] * total_B33 @ inverse_B33.mT
    (gradient_B33,) = torch.autograd.grad(deformation_B33, u_B33, slope_B33)
    # Symmetric, so that the cell does not turn; a rotation costs no energy.
    pull_B33 = -0.5 * (gradient_B33 + gradient_B33.mT) / counts_B[:, None, None]
    force_N3 = deform(force_N3, deformation_B33.detach(), batch.system_N)
    return force_N3, pull_B33


def _place(walk: _Walk, batch0: Batch, cell: bool) -> Batch:
    """The batch at the coordinates of the walk."""
    if not cell:
        return replace(batch0, positions_N3=walk.x_N3)
    transposed_B33 = exponential(walk.u_B33).mT
    positions_N3 = deform(walk.x_N3, transposed_B33, batch0.system_N)
    return replace(batch0, positions_N3=positions_N3, cell_B33=batch0.cell_B33 @ transposed_B33)


def _select(active_B: Tensor, new: _Walk, old: _Walk, system_N: Tensor) -> _Walk:
    """``new`` for active systems, ``old`` for the others."""

    def choose(name: str) -> Tensor:
        after, before = getattr(new, name), getattr(old, name)
        mask = active_B[system_N] if name.endswith("_N3") else active_B
        return torch.where(mask.reshape(-1, *[1] * (after.dim() - 1)), after, before)

    return _Walk(**{name: choose(name) for name in _Walk.__dataclass_fields__})


def _largest(force_N3: Tensor, pull_B33: Tensor, counts_B: Tensor) -> Tensor:
    """(B,) largest force on an atom or on a row of the cell."""
    atoms_B = max_systems(torch.linalg.vector_norm(force_N3, dim=1), counts_B)
    return torch.maximum(atoms_B, torch.linalg.vector_norm(pull_B33, dim=2).amax(1))


def _check(energy_B: Tensor, largest_B: Tensor, step: int) -> None:
    sane_B = torch.isfinite(energy_B) & (largest_B <= MAX_FORCE)
    if not bool(sane_B.all()):
        system = int(torch.nonzero(~sane_B)[0])
        raise ValueError(
            f"The relaxation left the reach of the potential at step {step} (system {system}: energy {float(energy_B[system]):.6g} eV, "
            f"largest force {float(largest_B[system]):.6g} eV/A): check the structure for atoms that overlap."
        )


def _structures(originals: list[Structure], batch: Batch, output: Evaluation) -> list[Structure]:
    positions, cells = batch.positions_N3.cpu().numpy(), batch.cell_B33.cpu().numpy()
    assert output.forces is not None
    energies, forces = output.energy.detach().cpu().numpy(), output.forces.detach().cpu().numpy()
    stresses = None if output.stress is None else output.stress.detach().cpu().numpy()
    relaxed = []
    for b, (original, first, last) in enumerate(zip(originals, batch.offsets, batch.offsets[1:], strict=False)):
        labels = {"energy": float(energies[b]), "forces": forces[first:last].copy()}
        if stresses is not None:
            labels["stress"] = stresses[b].copy()
        relaxed.append(replace(original, positions=positions[first:last].copy(), cell=cells[b].copy(), labels=labels))
    return relaxed
