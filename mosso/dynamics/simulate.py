"""The public face of molecular dynamics: what is simulated and recorded, and when a simulation has gone wrong."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosso.data.structure import Batch
from mosso.dynamics.blocks import Blocks, Evaluate, Record, SearchError
from mosso.dynamics.checkpoint import load_state, require_settings, save_state
from mosso.dynamics.integrators import Ensemble, renew, temperature
from mosso.dynamics.leaves import mapped
from mosso.dynamics.state import ForceField, State, free_atoms, kinetic_energy, make_batch, pressure, start
from mosso.dynamics.units import BAR, GRAM_PER_CM3, KB
from mosso.kernels import examine, max_norm, sum_segments

__all__ = ["LogRow", "load_state", "log_row", "require_settings", "save_state", "simulate", "start"]

MAX_TEMPERATURE = 1e6  # K
MAX_FORCE = 1e6  # eV/A
_REMEDY = "try a smaller timestep, or relax the structure first"


@dataclass(frozen=True, eq=False)
class LogRow:
    """What a simulation looks like at one step; arrays are (B,) float64, one entry per system.

    Attributes:
        step: number of steps since the start.
        time: ps.
        potential_energy, kinetic_energy, total_energy: eV.
        conserved_energy: eV, total energy without what thermostat and barostat put in: its drift is the integrator's error.
        temperature: K, kinetic.
        pressure: bar; NaN unless periodic in three directions.
        density: g/cm^3; NaN likewise.
        max_force: eV/A.
    """

    step: int
    time: float
    potential_energy: np.ndarray
    kinetic_energy: np.ndarray
    total_energy: np.ndarray
    conserved_energy: np.ndarray
    temperature: np.ndarray
    pressure: np.ndarray
    density: np.ndarray
    max_force: np.ndarray


def log_row(state: State, ensemble: Ensemble) -> LogRow:
    """The log row of a state; pressure is NaN when the state has no stress."""
    return _log_row(int(state.step), observables(state, ensemble).cpu())


def _log_row(step: int, row_RB: Tensor) -> LogRow:
    time_B, *columns = row_RB.numpy().copy()
    return LogRow(step, float(time_B[0]) / 1000.0, *columns)


def observables(state: State, ensemble: Ensemble) -> Tensor:
    """(9, B) float64: time (fs), and what a LogRow holds, in its order."""
    periodic_B = state.batch.pbc_B3.all(1)
    nothing_B = torch.full_like(state.energy_B, torch.nan)
    density_B = GRAM_PER_CM3 * sum_segments(state.masses_N, state.counts_B) / state.batch.volume_B
    pressure_B = nothing_B if state.stress_B33 is None else pressure(state) / BAR
    kinetic_B = kinetic_energy(state)
    columns = [
        state.time.expand_as(kinetic_B),
        state.energy_B,
        kinetic_B,
        state.energy_B + kinetic_B,
        ensemble.conserved_energy(state),
        temperature(state, ensemble),
        torch.where(periodic_B, pressure_B, nothing_B),
        torch.where(periodic_B, density_B, nothing_B),
        max_force(state),
    ]
    return torch.stack(columns)


def max_force(state: State) -> Tensor:
    """(B,) float64, eV/A, largest force on an atom of each system that moves."""
    return max_norm(state.forces_N3, state.free_N, state.counts_B)


@dataclass(frozen=True, eq=False)
class _Motion:
    """A state and its health: (4, B) float64, the first step at which a system was out of reason, -1 for none, and its energy
    (eV), temperature (K) and largest force (eV/A) then."""

    state: State
    health_4B: Tensor

    @property
    def batch(self) -> Batch:
        return self.state.batch

    @property
    def status(self) -> Tensor:
        return self.health_4B

    @property
    def failed(self) -> Tensor:
        return (self.health_4B[0] >= 0.0).any()


@dataclass(frozen=True)
class _Dynamics:
    """A step of an ensemble, and its health; stress where the ensemble needs it or it is recorded."""

    ensemble: Ensemble
    timestep: float
    periodic: bool

    def step(self, motion: _Motion, evaluate: Evaluate, recorded: bool) -> _Motion:
        stress = self.ensemble.needs_stress or (recorded and self.periodic)
        state = self.ensemble.step(motion.state, self.timestep, lambda batch: evaluate(batch, stress))
        return self.examined(state, motion.health_4B)

    def row(self, motion: _Motion) -> Tensor:
        return observables(motion.state, self.ensemble)

    def examined(self, state: State, health_4B: Tensor | None = None) -> _Motion:
        """The state with its health, which keeps what was wrong first."""
        energies = (state.energy_B, kinetic_energy(state), self.ensemble.degrees_of_freedom(state))
        return _Motion(state, examine(*energies, max_force(state), state.step, health_4B, KB, MAX_TEMPERATURE, MAX_FORCE))


def simulate(
    potential: ForceField,
    structures: Any,
    ensemble: Ensemble,
    *,
    num_steps: int,
    timestep: float = 0.5,
    temperature_init: float | None = None,
    seed: int | Sequence[int] = 0,
    log_every: int = 10,
    write_every: int = 100,
    on_log: Callable[[LogRow], None] | None = None,
    on_frame: Callable[[State], None] | None = None,
    on_block: Callable[[int], None] | None = None,
    state: State | None = None,
    skin: float = 1.0,
) -> State:
    """Runs ``num_steps`` steps of every system and returns the state after them.

    Steps run in blocks ahead of the host (see blocks.py); on CUDA those of a mosso.Potential are captured.

    Args:
        potential: the force field; everything stays on its device.
        structures: one or several structures; with ``state`` they may be None.
        ensemble: NVE, Langevin, NoseHoover or StochasticCellRescaling.
        num_steps: how many steps to add, also when going on from ``state``.
        timestep: fs.
        temperature_init: K, of the velocities at the start; the ensemble's temperature by default.
        seed: system b uses ``seed + b``, or its own of a sequence; of no effect with ``state``, which carries its own.
        log_every, write_every: steps between calls of ``on_log`` and ``on_frame``, counted from step 0 of the simulation,
            so that a run in two parts records the same steps as a run in one.
        on_log, on_frame: called with a LogRow or the State on the host, in order, some steps after the step they belong to.
            Step 0 is recorded, also that of a given state; a later step one goes on from is not recorded again.
        on_block: called with a step whenever all steps up to it are known to be right, their rows and frames handed over.
        state: where to go on from; with the same timestep and ensemble the run continues bit for bit.
        skin: Angstrom, how far beyond the cutoff the neighbour list reaches.

    A simulation whose energies, forces or temperature leave all reason stops with a ValueError; rows and frames
    before that have been handed over.
    """
    ensemble.check_timestep(timestep)
    for name, number, least in (("num_steps", num_steps, 0), ("log_every", log_every, 1), ("write_every", write_every, 1)):
        if number < least:
            raise ValueError(f"{name} is {number}: give {least} or more.")
    state = ensemble.prepare(_begin(potential, structures, ensemble, temperature_init, seed, state))
    if ensemble.needs_stress and state.stress_B33 is None:
        state = renew(state, lambda batch: potential.evaluate(batch, potential.graph(batch), stress=True))
    first = int(state.step)
    dynamics = _Dynamics(ensemble, timestep, periodic=bool(state.batch.pbc_B3.all(1).any()))
    motion = dynamics.examined(state)
    list(_check(motion.health_4B.cpu(), []))

    def logged(step: int) -> bool:
        return on_log is not None and step % log_every == 0

    def kept(step: int) -> bool:
        return on_frame is not None and step % write_every == 0

    def hand_over(step: int, row_RB: Tensor, state: State | None) -> None:
        if on_log is not None and logged(step):
            on_log(_log_row(step, row_RB))
        if on_frame is not None and state is not None:
            on_frame(state)

    if first == 0:
        hand_over(0, dynamics.row(motion).cpu(), mapped(state, Tensor.cpu))
    if num_steps == 0:
        return state
    blocks = Blocks(
        dynamics,
        potential,
        motion,
        first=first,
        last=first + num_steps,
        recorded=lambda step: logged(step) or kept(step),
        kept=kept,
        skin=skin,
    )
    try:
        for block in blocks.run():
            for record in _check(block.status, block.records):
                hand_over(record.step, record.row, None if record.course is None else record.course.state)
            if on_block is not None:
                on_block(block.last)
    except SearchError as error:  # atoms that have run into each other or to infinity are the simulation's fault, not the input's
        raise ValueError(f"The simulation became unstable at step {blocks.step + 1}: {_REMEDY} ({error})") from error
    return blocks.course.state


def _begin(
    potential: ForceField,
    structures: Any,
    ensemble: Ensemble,
    temperature_init: float | None,
    seed: int | Sequence[int],
    state: State | None,
) -> State:
    if state is None:
        if temperature_init is None:
            temperature_init = getattr(ensemble, "temperature", None)
        if temperature_init is None:
            raise ValueError("Constant energy needs velocities to start from: pass temperature_init in K (0 for atoms at rest).")
        return start(potential, structures, temperature_init, seed)
    if structures is not None:
        checked, batch = make_batch(potential, structures)
        if batch.offsets != state.batch.offsets or not bool((batch.numbers_N == state.batch.numbers_N).all()):
            raise ValueError("The state to go on from has other atoms than the structures: resume with the same input.")
        if not torch.equal(free_atoms(checked, state.free_N.device), state.free_N):
            raise ValueError("The state to go on from has other fixed atoms than the structures: resume with the same input.")
    return state


def _check(health_4B: Tensor, records: list[Record[_Motion]]) -> Iterator[Record[_Motion]]:
    """The records before the first step where a system went wrong, and then a ValueError, if one did."""
    failed_B = health_4B[0] >= 0.0
    first = float(health_4B[0][failed_B].min()) if bool(failed_B.any()) else math.inf
    yield from (record for record in records if record.step < first)
    if first < math.inf:
        system = int(torch.nonzero(health_4B[0] == first)[0])
        _, energy, kelvin, force = health_4B[:, system].tolist()
        raise ValueError(
            f"The simulation became unstable at step {first:.0f} (system {system}: energy {energy:.6g} eV, temperature {kelvin:.6g} K, "
            f"largest force {force:.6g} eV/A): {_REMEDY}."
        )
