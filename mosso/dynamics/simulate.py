"""The simulation loop: steps, neighbour lists, logging, and when to stop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosso.data.structure import Batch
from mosso.dynamics.checkpoint import load_state, require_settings, save_state
from mosso.dynamics.integrators import Ensemble, renew, temperature
from mosso.dynamics.state import (
    Evaluation,
    ForceField,
    State,
    free_atoms,
    kinetic_energy,
    make_batch,
    max_systems,
    pressure,
    start,
    sum_systems,
)
from mosso.dynamics.units import BAR, GRAM_PER_CM3
from mosso.graph.graph import Graph
from mosso.graph.verlet import VerletList

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
    periodic_B = state.batch.pbc_B3.all(1)
    nothing_B = torch.full_like(state.energy_B, torch.nan)
    density_B = GRAM_PER_CM3 * sum_systems(state.masses_N, state.counts_B) / state.batch.volume_B
    pressure_B = nothing_B if state.stress_B33 is None else pressure(state) / BAR
    kinetic_B = kinetic_energy(state)

    def host(values_B: Tensor) -> np.ndarray:
        return values_B.detach().cpu().numpy().copy()

    return LogRow(
        step=int(state.step),
        time=float(state.time) / 1000.0,
        potential_energy=host(state.energy_B),
        kinetic_energy=host(kinetic_B),
        total_energy=host(state.energy_B + kinetic_B),
        conserved_energy=host(ensemble.conserved_energy(state)),
        temperature=host(temperature(state, ensemble)),
        pressure=host(torch.where(periodic_B, pressure_B, nothing_B)),
        density=host(torch.where(periodic_B, density_B, nothing_B)),
        max_force=host(max_force(state)),
    )


def max_force(state: State) -> Tensor:
    """(B,) float64, eV/A, largest force on an atom of each system that moves."""
    return max_systems(torch.linalg.vector_norm(state.forces_N3, dim=1).where(state.free_N, 0.0), state.counts_B)


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
    state: State | None = None,
    skin: float = 1.0,
) -> State:
    """Runs ``num_steps`` steps of every system and returns the state after them.

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
        on_log, on_frame: called with a LogRow or the State. Step 0 is recorded, also that of a given state; a later step one
            goes on from is not recorded again.
        state: where to go on from; with the same timestep and ensemble the run continues bit for bit.
        skin: Angstrom, how far beyond the cutoff the neighbour list reaches.

    A simulation whose energies, forces or temperature leave all reason stops with a ValueError; rows and frames
    before that have been handed over.
    """
    if num_steps < 0 or not timestep > 0.0 or log_every < 1 or write_every < 1:
        raise ValueError(
            f"num_steps={num_steps}, timestep={timestep} fs, log_every={log_every}, write_every={write_every}: "
            "give num_steps of zero or more, a positive timestep, and intervals of one step or more."
        )
    state = ensemble.prepare(_begin(potential, structures, ensemble, temperature_init, seed, state))
    neighbors = VerletList(potential.cutoff, skin=skin)
    periodic = bool(state.batch.pbc_B3.all(1).any())
    first = int(state.step)

    def due(step: int, every: int, callback: object) -> bool:
        return callback is not None and step % every == 0

    def evaluator(step: int, stress: bool) -> Callable[[Batch], Evaluation]:
        return lambda batch: potential.evaluate(batch, _neighbors_at(step, neighbors, batch), stress=stress)

    def record(state: State, step: int) -> None:
        if due(step, log_every, on_log):
            on_log(log_row(state, ensemble))  # type: ignore[misc]
        if due(step, write_every, on_frame):
            on_frame(state)  # type: ignore[misc]

    if ensemble.needs_stress and state.stress_B33 is None:
        state = renew(state, evaluator(first, stress=True))
    _check(state, ensemble, first)
    if first == 0:
        record(state, first)
    for step in range(first + 1, first + num_steps + 1):
        recorded = due(step, log_every, on_log) or due(step, write_every, on_frame)
        state = ensemble.step(state, timestep, evaluator(step, stress=ensemble.needs_stress or (recorded and periodic)))
        _check(state, ensemble, step)
        record(state, step)
    return state


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


def _neighbors_at(step: int, neighbors: VerletList, batch: Batch) -> Graph:
    """The neighbours; atoms that have run into each other or to infinity are the simulation's fault, not the input's."""
    try:
        return neighbors.update(batch)
    except ValueError as error:
        raise ValueError(f"The simulation became unstable at step {step}: {_REMEDY} ({error})") from error


def _check(state: State, ensemble: Ensemble, step: int) -> None:
    """ValueError where a system has gone wrong. Reads one flag back to the host."""
    temperature_B, force_B = temperature(state, ensemble), max_force(state)
    # Comparisons with NaN are false, so "sane" is asked, not "bad".
    sane_B = torch.isfinite(state.energy_B) & (temperature_B <= MAX_TEMPERATURE) & (force_B <= MAX_FORCE)
    if bool(sane_B.all()):
        return
    system = int(torch.nonzero(~sane_B)[0])
    raise ValueError(
        f"The simulation became unstable at step {step} (system {system}: energy {float(state.energy_B[system]):.6g} eV, temperature "
        f"{float(temperature_B[system]):.6g} K, largest force {float(force_B[system]):.6g} eV/A): "
        f"{_REMEDY}."
    )
