"""What ``mosso md`` keeps while it runs: trajectory, log table, checkpoint, and the numbers of its final table."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mosso.cli.interrupt import Interruptible

if TYPE_CHECKING:
    from mosso.dynamics.simulate import LogRow
    from mosso.dynamics.state import State
    from mosso.dynamics.writing import WriterThread

CHECKPOINT_EVERY = 5.0  # seconds


class Recorder:
    """Writes beside the trajectory ``x.extxyz`` also ``x.log.csv`` and ``x.checkpoint.npz``, in a thread of their own.

    Files are opened by the first thing to write, so that a run that fails at its start leaves none. A checkpoint holds the
    state of a frame; frames and log lines behind it are cut when one resumes from it. What could not be written is an OSError
    of a later call, ``close`` at the latest.

    Args:
        out: the trajectory.
        interruptible: held while something is handed over.
        last_step: the step one resumes from, None for a new run.
        settings: what the run is made with; goes into the checkpoint.
        on_row: told of every log row.
    """

    def __init__(
        self,
        out: Path,
        interruptible: Interruptible,
        last_step: int | None,
        settings: Mapping[str, Any],
        on_row: Callable[["LogRow"], None],
    ) -> None:
        self.settings = settings
        self.out, self.log, self.checkpoint = paths_of(out)
        self.rows: list[LogRow] = []
        self.times: list[float] = []
        self._interruptible, self._last_step, self._on_row = interruptible, last_step, on_row
        self._frame: State | None = None
        self._trajectory: Any = None
        self._table: Any = None
        self._writer: WriterThread | None = None
        self._saved = perf_counter()
        self._saved_step = self._last_step

    def write_row(self, row: "LogRow") -> None:
        """A line of the log table."""
        with self._interruptible.held():
            self._open().submit(self._table, row)
            self.rows.append(row)
            self.times.append(perf_counter())
            self._on_row(row)

    def write_frame(self, state: "State") -> None:
        """A frame of the trajectory, and now and then a checkpoint."""
        with self._interruptible.held():
            self._open().submit(self._trajectory, state)
            self._frame = state
            if self._saved_step is None or perf_counter() - self._saved > CHECKPOINT_EVERY:
                self.save(state)

    def save(self, state: "State | None" = None) -> int | None:
        """Make ``state``, else the last frame, the checkpoint; returns its step, None where there is nothing yet."""
        from mosso.dynamics.simulate import save_state

        state = self._frame if state is None else state
        if state is not None:
            self._open().submit(save_state, self.checkpoint, state, self.settings)
            self._saved, self._saved_step = perf_counter(), int(state.step)
        return self._saved_step

    def close(self) -> None:
        """Write what is still waiting, and close the files."""
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            for file in (self._trajectory, self._table):
                if file is not None:
                    file.close()

    def _open(self) -> "WriterThread":
        if self._writer is not None:
            return self._writer
        from mosso.dynamics.trajectory import LogWriter, TrajectoryWriter
        from mosso.dynamics.writing import WriterThread

        again = self._last_step is not None
        self._trajectory = TrajectoryWriter(self.out, append=again, last_step=self._last_step)
        self._table = LogWriter(self.log, append=again, last_step=self._last_step)
        if not again:
            self.checkpoint.unlink(missing_ok=True)  # it belongs to the trajectory just replaced
        self._writer = WriterThread()
        return self._writer

    def summary(self, num_atoms: int, timestep: float) -> dict[str, Any]:
        """Averages over the log rows of this run; None where something has no meaning. Drift is a straight-line fit."""
        import numpy as np

        def mean(name: str) -> float | None:
            values = np.array([getattr(row, name)[0] for row in self.rows])
            return float(values.mean()) if len(values) and np.isfinite(values).all() else None

        temperatures = [row.temperature[0] for row in self.rows]
        speed = drift = None
        if len(self.rows) > 1:
            speed = (self.rows[-1].step - self.rows[0].step) / max(self.times[-1] - self.times[0], 1e-9)
            energy = np.array([row.conserved_energy[0] for row in self.rows])
            drift = float(np.polyfit([row.time for row in self.rows], energy - energy[0], 1)[0]) / num_atoms * 1000
        return {
            "temperature": mean("temperature"), "temperature_std": float(np.std(temperatures)) if temperatures else None,
            "drift": drift, "pressure": mean("pressure"), "density": mean("density"),
            "steps_per_second": speed, "ns_per_day": None if speed is None else speed * timestep * 1e-6 * 86400,
        }  # fmt: skip


def paths_of(out: Path) -> tuple[Path, Path, Path]:
    """Trajectory, log table and checkpoint of a run."""
    return out, out.with_suffix(".log.csv"), out.with_suffix(".checkpoint.npz")
