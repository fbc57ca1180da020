"""Molecular dynamics of a water box at 300 K, written as it goes."""

from pathlib import Path

import ase.io

import mosso
from mosso.dynamics.integrators import Langevin
from mosso.dynamics.simulate import LogRow, simulate
from mosso.dynamics.trajectory import LogWriter, TrajectoryWriter
from mosso.dynamics.writing import WriterThread

water = ase.io.read(Path(__file__).parent / "water24.extxyz")
pot = mosso.load("mosso-xtb-s", device="auto", precision="fp32")

with TrajectoryWriter("water24.traj") as trajectory, LogWriter("water24.log.csv") as table, WriterThread() as writer:

    def on_log(row: LogRow) -> None:
        writer.submit(table, row)
        print(f"{row.time:6.3f} ps  {row.temperature[0]:6.1f} K  {row.potential_energy[0]:12.4f} eV  {row.pressure[0]:8.0f} bar")

    ensemble = Langevin(temperature=300.0, friction=0.01)
    on_frame = writer.later(trajectory)
    simulate(pot, water, ensemble, num_steps=200, timestep=0.5, log_every=20, write_every=50, on_log=on_log, on_frame=on_frame)
