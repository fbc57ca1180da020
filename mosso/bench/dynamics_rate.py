"""Molecular dynamics as a user runs it: neighbour lists, thermostat, log and trajectory included."""

import tempfile
import time
from pathlib import Path
from typing import Any

from mosso.bench import measure
from mosso.bench.cases import SYSTEMS
from mosso.dynamics.integrators import Langevin
from mosso.dynamics.simulate import simulate
from mosso.dynamics.state import ForceField
from mosso.dynamics.trajectory import LogWriter, TrajectoryWriter
from mosso.dynamics.writing import WriterThread

TEMPERATURE, TIMESTEP, FRICTION = 300.0, 0.5, 0.01  # K, fs, 1/fs
LOG_EVERY, WRITE_EVERY = 10, 100
WARM_UP = 50


def steps_per_second(potential: ForceField, system: str, num_steps: int) -> dict[str, Any]:
    """Steps per second of constant-temperature dynamics after WARM_UP steps; forces at the end have to be finite."""
    with tempfile.TemporaryDirectory() as folder:
        state = simulate(
            potential, SYSTEMS[system].structures(), Langevin(TEMPERATURE, FRICTION), num_steps=WARM_UP, timestep=TIMESTEP
        )  # fmt: skip
        measure.wait(potential.device)
        start = time.perf_counter()
        with LogWriter(Path(folder, "run.csv")) as log, TrajectoryWriter(Path(folder, "run.extxyz")) as frames, WriterThread() as writer:
            state = simulate(
                potential,
                None,
                Langevin(TEMPERATURE, FRICTION),
                num_steps=num_steps,
                timestep=TIMESTEP,
                state=state,
                log_every=LOG_EVERY,
                write_every=WRITE_EVERY,
                on_log=writer.later(log),
                on_frame=writer.later(frames),
            )
            writer.wait()
        measure.wait(potential.device)
        seconds = time.perf_counter() - start
    return {"kind": "md", "side": "mosso", "system": system, "atoms": state.batch.num_atoms, "steps_per_s": num_steps / seconds}
