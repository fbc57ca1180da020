"""metrics.jsonl and the table on the terminal: one line per report."""

import json
import math
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends JSON lines to ``path`` and prints the same as a table."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header = ""

    def note(self, text: str) -> None:
        """A remark for people; not recorded."""
        print(f"# {text}", flush=True)
        self._header = ""

    def training(self, **values: Any) -> None:
        """Mean losses since the last report, learning rate and speed."""
        self._append({"kind": "training", **values})
        columns = {
            "step": f"{values['step']:>8d}",
            "epoch": f"{values['epoch']:>6d}",
            "loss": _number(values["loss"]),
            "energy": _number(values["energy_loss"]),
            "forces": _number(values["forces_loss"]),
            "lr": _number(values["learning_rate"]),
            "steps/s": f"{values['steps_per_second']:>8.2f}",
            "skipped": f"{values['bad_steps']:>8d}",
        }
        self._row("  ".join(name.rjust(len(text)) for name, text in columns.items()), "  ".join(columns.values()))

    def validation(self, step: int, epoch: int, errors: dict[str, dict[str, Any]], seconds: float) -> None:
        """Validation errors, total first, then every group."""
        self._append({"kind": "validation", "step": step, "epoch": epoch, "seconds": seconds, "errors": errors})
        header = f"{'validation':<20}{'frames':>8}{'E MAE':>10}{'E RMSE':>10}{'F MAE':>10}{'F RMSE':>10}   meV/atom, meV/A, step {step}"
        self._row(header, "")
        for name, e in errors.items():
            energies, forces = f"{e['energy_mae']:>10.2f}{e['energy_rmse']:>10.2f}", f"{e['forces_mae']:>10.2f}{e['forces_rmse']:>10.2f}"
            print(f"{name:<20}{e['frames']:>8d}{energies}{forces}", flush=True)

    def forget_after(self, step: int) -> None:
        """Drop lines behind ``step``: a run that was killed repeats those steps from its last checkpoint."""
        if self.path.exists():
            lines = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
            self.path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def _append(self, record: dict[str, Any]) -> None:
        clean = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean) + "\n")

    def _row(self, header: str, row: str) -> None:
        if header != self._header:
            print(header)
            self._header = header
        if row:
            print(row, flush=True)


def _number(value: float | None) -> str:
    return f"{'none' if value is None else f'{value:.3e}':>10}"


def _step(line: str) -> float:
    """The step of a line; lines cut short by a crash count as too late."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
