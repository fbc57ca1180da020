"""Molecular dynamics in the benchmark: of which kind they are, ASE's and TorchSim's, and how they are timed while they run.

A part of ``serve.py``, which loads it; stands alone like that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

# Dynamics: K, 1/fs; rows of the log and frames of the trajectory as users write them.
TEMPERATURE, FRICTION, LOG_EVERY, WRITE_EVERY = 300.0, 0.01, 10, 100
# Dynamics have found their pace where steps no longer get shorter than this share of those before: nothing is compiled any more.
SETTLED = 0.8
MAX_WARM_UP = 10  # times as many steps as asked for are made, if need be
# So many steps, saying now and then how many are done.
Dynamics = Callable[[int, Callable[[int], None]], None]


class Enough(Exception):
    """Ends a run of dynamics that has been timed."""


class Stopwatch:
    """Times dynamics while they run, by the moments at which the host knows how many steps are done.

    The clock starts after ``warm_up`` steps, or ``seconds``, and not before the pace is settled; it stops the run when ``steps`` more
    are done or took ``seconds``. A step counts when it is known to be done, so no step is counted whose work fell before the start.
    """

    def __init__(self, steps: int, seconds: float, warm_up: int) -> None:
        self._wanted, self._seconds, self._warm_up = steps, seconds, warm_up
        self._begun = self._before = self._now = (0, time.perf_counter())
        self._pace = 0.0
        self._start: tuple[int, float] | None = None

    def done(self, step: int) -> None:
        """All steps up to ``step`` are done; ends the run by ``Enough`` when it is time."""
        if step <= self._now[0]:
            return
        self._before, self._now = self._now, (step, time.perf_counter())
        if self._start is not None:
            if step - self._start[0] >= self._wanted or self._now[1] - self._start[1] >= self._seconds:
                raise Enough
            return
        pace, self._pace = self._pace, (self._now[1] - self._before[1]) / (step - self._before[0])
        long_enough = step >= self._warm_up or self._now[1] - self._begun[1] >= self._seconds
        if long_enough and self._pace >= SETTLED * pace > 0.0:
            self._start = self._now

    def read(self) -> dict[str, Any]:
        """Milliseconds of a step, how many that is the mean of, and how many came before; all of the run where it never settled."""
        start = self._start if self._start is not None and self._now[0] > self._start[0] else self._begun
        steps = self._now[0] - start[0]
        if not steps:
            raise ValueError("The dynamics ended without a step.")
        return {"ms": [1e3 * (self._now[1] - start[1]) / steps], "steps": steps, "warm_up": start[0]}


def timed(run: Dynamics, steps: int, seconds: float, warm_up: int) -> dict[str, Any]:
    """What a ``Stopwatch`` of these arguments reads after a run."""
    watch = Stopwatch(steps, seconds, warm_up)
    with suppress(Enough):
        run(MAX_WARM_UP * (warm_up + 1) + steps, watch.done)
    return watch.read()


def of_ase(atoms: Any, timestep: float, files: ExitStack) -> Dynamics:
    """ASE's Langevin dynamics of atoms with a calculator; ``files`` closes what they write."""
    from ase import units
    from ase.io.trajectory import Trajectory
    from ase.md import MDLogger
    from ase.md.langevin import Langevin

    random = np.random.default_rng(0)
    spread = np.sqrt(units.kB * TEMPERATURE * atoms.get_masses())
    atoms.set_momenta(spread[:, None] * random.standard_normal((len(atoms), 3)))
    friction = FRICTION / units.fs
    langevin = Langevin(atoms, timestep * units.fs, temperature_K=TEMPERATURE, friction=friction, fixcm=False, rng=random)
    folder = files.enter_context(tempfile.TemporaryDirectory())
    log = MDLogger(langevin, atoms, str(Path(folder, "run.log")))
    files.callback(log.close)
    langevin.attach(log, interval=LOG_EVERY)
    trajectory = files.enter_context(Trajectory(str(Path(folder, "run.traj")), "w", atoms))
    langevin.attach(trajectory.write, interval=WRITE_EVERY)

    def run(steps: int, done: Callable[[int], None]) -> None:
        langevin.attach(lambda: done(langevin.nsteps), interval=1)
        langevin.run(steps)

    return run


def of_torch_sim(model: Any, atoms: list[Any], timestep: float, wait: Callable[[], None]) -> Dynamics:
    """Langevin dynamics by TorchSim, which tells what it does by asking for the numbers of its log."""
    import torch_sim

    folder, langevin = tempfile.mkdtemp(), getattr(torch_sim, "Integrator", torch_sim).nvt_langevin  # its place depends on the release

    def run(steps: int, done: Callable[[int], None]) -> None:
        rows = 0

        def energy(state: Any) -> Any:
            nonlocal rows
            rows += 1
            wait()
            done(LOG_EVERY * rows)
            return state.energy

        log = {
            "potential_energy": energy,
            "kinetic_energy": lambda state: torch_sim.calc_kinetic_energy(masses=state.masses, momenta=state.momenta),
        }
        files = [str(Path(folder, f"run-{index}.h5")) for index in range(len(atoms))]
        reporter = torch_sim.TrajectoryReporter(files, state_frequency=WRITE_EVERY, prop_calculators={LOG_EVERY: log})
        try:
            torch_sim.integrate(
                atoms,
                model,
                integrator=langevin,
                n_steps=steps,
                temperature=TEMPERATURE,
                timestep=1e-3 * timestep,  # ps
                trajectory_reporter=reporter,
            )
        finally:
            reporter.close()

    return run
