"""Relaxation of many structures at once, positions and optionally cells, by FIRE."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosso.data.structure import BadStructure, Batch, Structure
from mosso.dynamics.blocks import Blocks, Evaluate
from mosso.dynamics.state import ForceField, free_atoms, make_batch
from mosso.dynamics.strain import deform
from mosso.dynamics.units import BAR
from mosso.kernels import exponential, max_segments, sum_segments

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
        energies_start: (B,) eV, of the structures given.
    """

    structures: list[Structure]
    converged: np.ndarray
    num_steps: np.ndarray
    energies: np.ndarray
    max_forces: np.ndarray
    energies_start: np.ndarray


class RelaxInterrupted(KeyboardInterrupt):
    """The interrupt that ended ``relax``; ``result`` (RelaxResult) is where it had come to, less the steps not yet checked."""

    def __init__(self, result: RelaxResult) -> None:
        super().__init__()
        self.result = result


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


@dataclass(frozen=True, eq=False)
class _Course:
    """Where every system stands: its walk, what the potential says there, the generalised forces, and how far it has come.

    ``trouble_3B`` (float64) holds the first step at which a system left the reach of the potential, -1 for none, and its energy
    (eV) and largest force (eV/A) then. Systems that have converged keep everything they had.
    """

    walk: _Walk
    batch: Batch
    energy_B: Tensor
    forces_N3: Tensor
    stress_B33: Tensor | None
    push_N3: Tensor
    pull_B33: Tensor
    largest_B: Tensor
    converged_B: Tensor
    num_steps_B: Tensor
    step: Tensor
    trouble_3B: Tensor

    @property
    def failed(self) -> Tensor:
        return (self.trouble_3B[0] >= 0.0).any()

    @property
    def status(self) -> Tensor:
        """(4, B) float64: trouble, and whether converged."""
        return torch.cat([self.trouble_3B, self.converged_B.to(torch.float64).unsqueeze(0)])


@dataclass(frozen=True, eq=False)
class _Descent:
    """A step of the relaxation of ``batch0``: FIRE, the potential, and who has arrived."""

    batch0: Batch
    free_N1: Tensor
    fmax: float
    pressure: float | None  # eV/A^3; None where cells stay

    def begin(self, evaluate: Evaluate) -> _Course:
        walk, batch = _begin(self.batch0), self.batch0
        none_B = torch.zeros_like(self.batch0.counts_B)
        output = evaluate(batch, self.pressure is not None)
        assert output.forces is not None
        course = _Course(
            walk=walk,
            batch=batch,
            energy_B=output.energy.detach().clone(),
            forces_N3=output.forces.detach().clone(),
            stress_B33=None if output.stress is None else output.stress.detach().clone(),
            push_N3=walk.velocity_N3,
            pull_B33=walk.rate_B33,
            largest_B=torch.zeros_like(walk.dt_B),
            converged_B=none_B.to(torch.bool),
            num_steps_B=none_B,
            step=torch.zeros_like(none_B[0]),
            trouble_3B=torch.full_like(walk.dt_B, -1.0).repeat(3, 1),
        )
        return self._judged(course)

    def step(self, course: _Course, evaluate: Evaluate, recorded: bool) -> _Course:
        moved = fire(course.walk, course.push_N3, course.pull_B33, self.batch0.counts_B, self.batch0.system_N, course.num_steps_B == 0)
        active_B = ~course.converged_B
        walk = _select(active_B, moved, course.walk, self.batch0.system_N)
        batch = _place(walk, self.batch0, self.pressure is not None)
        output = evaluate(batch, self.pressure is not None)
        assert output.forces is not None
        stress_B33 = course.stress_B33
        if stress_B33 is not None and output.stress is not None:
            stress_B33 = torch.where(active_B[:, None, None], output.stress.detach(), stress_B33)
        after = replace(
            course,
            walk=walk,
            batch=batch,
            energy_B=torch.where(active_B, output.energy.detach(), course.energy_B),
            forces_N3=torch.where(active_B[self.batch0.system_N].unsqueeze(1), output.forces.detach(), course.forces_N3),
            stress_B33=stress_B33,
            num_steps_B=course.num_steps_B + active_B,
            step=course.step + 1,
        )
        return self._judged(after)

    def row(self, course: _Course) -> Tensor:
        """(3, B) float64: energies, largest forces, and whether converged."""
        return torch.stack([course.energy_B, course.largest_B, course.converged_B.to(torch.float64)])

    def _judged(self, course: _Course) -> _Course:
        """The course with its generalised forces, whether they are small enough, and whether they are out of reason."""
        push_N3, pull_B33 = _generalised_forces(
            course.walk, course.batch, self.batch0.counts_B, course.forces_N3, course.stress_B33, self.free_N1, self.pressure
        )
        largest_B = _largest(course.forces_N3 * self.free_N1, pull_B33, self.batch0.counts_B)
        sane_B = torch.isfinite(course.energy_B) & (largest_B <= MAX_FORCE)
        step_B = torch.where(sane_B, -1.0, course.step.to(torch.float64))
        trouble_3B = torch.where(course.trouble_3B[0] >= 0.0, course.trouble_3B, torch.stack([step_B, course.energy_B, largest_B]))
        converged_B = course.converged_B | (largest_B <= self.fmax)
        return replace(course, push_N3=push_N3, pull_B33=pull_B33, largest_B=largest_B, converged_B=converged_B, trouble_3B=trouble_3B)


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

    Raises:
        ValueError: options or structures that make no sense, or a structure that leaves the reach of the potential.
        RelaxInterrupted: a KeyboardInterrupt after the first evaluation, with where the systems stood.
    """
    checked, batch0 = make_batch(potential, structures)
    if not fmax > 0.0:
        raise ValueError(f"fmax is {fmax} eV/A: give a positive force.")
    if steps < 0:
        raise ValueError(f"steps is {steps}: give zero or more.")
    if not math.isfinite(pressure):
        raise ValueError(f"pressure is {pressure} bar: give a finite number.")
    if cell and not bool(batch0.pbc_B3.all()):
        system = int(torch.nonzero(~batch0.pbc_B3.all(1))[0])
        raise BadStructure(system, "it is not periodic in three directions, so its cell cannot be relaxed: relax without the cell.")
    if pressure != 0.0 and not cell:
        raise ValueError("A pressure acts on the cell only: relax the cell too, or leave the pressure out.")
    free_N1 = free_atoms(checked, batch0.positions_N3.device).unsqueeze(1)
    descent = _Descent(batch0, free_N1, fmax, pressure * BAR if cell else None)
    course = begun = descent.begin(lambda batch, stress: potential.evaluate(batch, potential.graph(batch), stress=stress))

    def tell(step: int, row_3B: Tensor) -> bool:
        """Whether all have converged."""
        energies, largest, converged = row_3B.numpy().copy()
        if on_step is not None:
            on_step(RelaxRow(step, energies, largest, converged > 0.0))
        return bool(converged.all())

    _check(begun.trouble_3B.cpu())
    try:
        if not tell(0, descent.row(begun).cpu()) and steps > 0:
            for reached in _descend(descent, potential, begun, steps, tell, skin):
                course = reached
    except KeyboardInterrupt:
        raise RelaxInterrupted(_result(checked, begun, course)) from None
    return _result(checked, begun, course)


def _descend(
    descent: _Descent, potential: ForceField, course: _Course, steps: int, tell: Callable[[int, Tensor], bool], skin: float
) -> Iterator[_Course]:
    """Courses known to be right, further and further, the last after ``steps`` steps or when all have converged; ``tell`` hears the
    rows."""
    blocks = Blocks(descent, potential, course, first=0, last=steps, recorded=lambda step: True, kept=lambda step: False, skin=skin)
    for block in blocks.run():
        trouble_B = block.status[0]
        for record in block.records:
            if bool(((trouble_B >= 0.0) & (trouble_B <= record.step)).any()):
                break
            if tell(record.step, record.row):
                yield blocks.course
                return
        _check(block.status[:3])
        yield blocks.course


def fire(walk: _Walk, force_N3: Tensor, pull_B33: Tensor, counts_B: Tensor, system_N: Tensor, first_B: Tensor) -> _Walk:
    """One FIRE step of every system: mix velocities, adapt the time step, move; where it is the first (B,), only move."""

    def dot(a_N3: Tensor, a_B33: Tensor, b_N3: Tensor, b_B33: Tensor) -> Tensor:
        return sum_segments((a_N3 * b_N3).sum(1), counts_B) + (a_B33 * b_B33).sum((1, 2))

    velocity_N3, rate_B33, dt_B, alpha_B, downhill_B = walk.velocity_N3, walk.rate_B33, walk.dt_B, walk.alpha_B, walk.downhill_B
    power_B = dot(force_N3, pull_B33, velocity_N3, rate_B33)
    good_B = power_B > 0.0
    speed_B = torch.sqrt(dot(velocity_N3, rate_B33, velocity_N3, rate_B33))
    size_B = torch.sqrt(dot(force_N3, pull_B33, force_N3, pull_B33)).clamp(min=1e-300)
    # in a first step velocities are zero, and going nowhere is not going uphill
    keep_B = torch.where(good_B, 1.0 - alpha_B, 0.0)
    steer_B = torch.where(good_B, alpha_B * speed_B / size_B, 0.0)
    velocity_N3 = keep_B[system_N].unsqueeze(1) * velocity_N3 + steer_B[system_N].unsqueeze(1) * force_N3
    rate_B33 = keep_B[:, None, None] * rate_B33 + steer_B[:, None, None] * pull_B33
    faster_B = good_B & (downhill_B > _PATIENCE)
    changed_B = torch.where(good_B, torch.where(faster_B, (dt_B * _GROW).clamp(max=_DT_MAX), dt_B), dt_B * _SHRINK)
    dt_B = torch.where(first_B, dt_B, changed_B)
    alpha_B = torch.where(good_B, torch.where(faster_B, alpha_B * _ALPHA_DECAY, alpha_B), _ALPHA_START)
    downhill_B = torch.where(good_B, downhill_B + 1, 0)
    velocity_N3 = velocity_N3 + dt_B[system_N].unsqueeze(1) * force_N3
    rate_B33 = rate_B33 + dt_B[:, None, None] * pull_B33
    move_N3 = dt_B[system_N].unsqueeze(1) * velocity_N3
    strain_B33 = (dt_B / counts_B)[:, None, None] * rate_B33
    farthest_B = max_segments(torch.linalg.vector_norm(move_N3, dim=1), counts_B).clamp(min=1e-300)
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
    walk: _Walk, batch: Batch, counts_B: Tensor, forces_N3: Tensor, stress_B33: Tensor | None, free_N1: Tensor, pressure: float | None
) -> tuple[Tensor, Tensor]:
    """(N, 3) -dH/dx in eV/A and (B, 3, 3) -dH/du over the number of atoms in eV; the latter zero without a pressure given.

    With F = expm(u): dH/dF = V (stress + P) F^-T, and the chain rule through expm is torch's own.
    """
    force_N3 = forces_N3 * free_N1
    if pressure is None:
        return force_N3, torch.zeros_like(walk.u_B33)
    assert stress_B33 is not None
    with torch.enable_grad():
        u_B33 = walk.u_B33.clone().requires_grad_()
        deformation_B33 = exponential(u_B33)
    total_B33 = stress_B33 + pressure * torch.eye(3, dtype=u_B33.dtype, device=u_B33.device)
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
    atoms_B = max_segments(torch.linalg.vector_norm(force_N3, dim=1), counts_B)
    return torch.maximum(atoms_B, torch.linalg.vector_norm(pull_B33, dim=2).amax(1))


def _check(trouble_3B: Tensor) -> None:
    for system in torch.nonzero(trouble_3B[0] >= 0.0).flatten().tolist()[:1]:
        step, energy, largest = trouble_3B[:, system].tolist()
        raise BadStructure(
            system,
            f"its relaxation left the reach of the potential at step {step:.0f} (energy {energy:.6g} eV, "
            f"largest force {largest:.6g} eV/A): check it for atoms that overlap.",
        )


def _result(originals: list[Structure], begun: _Course, course: _Course) -> RelaxResult:
    values = (course.converged_B, course.num_steps_B, course.energy_B, course.largest_B, begun.energy_B)
    return RelaxResult(_structures(originals, course), *(value.cpu().numpy().copy() for value in values))


def _structures(originals: list[Structure], course: _Course) -> list[Structure]:
    batch = course.batch
    positions, cells = batch.positions_N3.cpu().numpy(), batch.cell_B33.cpu().numpy()
    energies, forces = course.energy_B.cpu().numpy(), course.forces_N3.cpu().numpy()
    stresses = None if course.stress_B33 is None else course.stress_B33.cpu().numpy()
    relaxed = []
    for b, (original, first, last) in enumerate(zip(originals, batch.offsets, batch.offsets[1:], strict=False)):
        labels = {"energy": float(energies[b]), "forces": forces[first:last].copy()}
        if stresses is not None:
            labels["stress"] = stresses[b].copy()
        relaxed.append(replace(original, positions=positions[first:last].copy(), cell=cells[b].copy(), labels=labels))
    return relaxed
