"""What goes to the terminal: tables and JSON on stdout, progress on stderr; and where results may be written."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mosso.data.writers import Frame

PATIENCE = 1.0  # seconds before a progress bar appears


def print_json(document: Any) -> None:
    """One JSON document on stdout; numbers that JSON does not have (NaN, infinity) become null."""
    sys.stdout.write(json.dumps(_plain(document), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, tensors
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, numeric: int = 0) -> None:
    """A table on stdout; the last ``numeric`` columns are aligned to the right."""
    table = Table(header_style="bold")
    for index, column in enumerate(columns):
        right = index >= len(columns) - numeric
        table.add_column(column, justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = _stdout()
    console.print(title, style="bold")
    console.print(table)


def print_pairs(title: str, pairs: Iterable[tuple[str, str]]) -> None:
    """Name and value, one per line."""
    console = _stdout()
    console.print(title, style="bold")
    grid = Table.grid(padding=(0, 2))
    for name, value in pairs:
        grid.add_row(f"  {name}", value)
    console.print(grid)


def _stdout() -> Console:
    """A pipe has no width: lines there are as long as they need, rather than folded at 80."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False)


def plural(count: int, noun: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def note(message: str) -> None:
    """A remark for people, on stderr."""
    print(message, file=sys.stderr, flush=True)


class Bar:
    """A progress bar on stderr for work longer than a second; silent where stderr is not a terminal.

    ``with Bar("Relaxing", total=500, wanted=progress) as bar: bar.move_to(done, "fmax 0.3")``
    """

    def __init__(self, label: str, total: float, *, wanted: bool = True) -> None:
        self.label, self.total = label, total
        self.wanted = wanted and sys.stderr.isatty()
        self.done: float = 0
        self.started = time.monotonic()
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def move_to(self, done: float, detail: str = "") -> None:
        """State how much is done, with a few words on how it goes."""
        self.done = done
        if not self.wanted or (self._progress is None and time.monotonic() - self.started < PATIENCE):
            return
        if self._progress is None:
            self._open()
        self._progress.update(self._task, completed=done, detail=detail)

    def _open(self) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        words, count, detail = TextColumn("{task.description}"), TaskProgressColumn(), TextColumn("{task.fields[detail]}")
        self._progress = Progress(words, BarColumn(), count, TimeRemainingColumn(), detail, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(self.label, total=self.total, detail="")
        self._progress.start()


def check_out(out: Path, suffixes: Sequence[str]) -> Path:
    """Refuse an output that could not be written before any work is done; returns ``out``."""
    if not any(out.name.endswith(suffix) for suffix in suffixes):
        raise ValueError(f"Cannot write {out}: the name must end in {' or '.join(suffixes)}.")
    if out.is_dir():
        raise ValueError(f"Cannot write {out}: it is a folder.")
    if not out.parent.is_dir():
        raise ValueError(f"Cannot write {out}: the folder {out.parent} does not exist.")
    if not os.access(out.parent, os.W_OK):
        raise ValueError(f"Cannot write {out}: no permission to write in {out.parent}.")
    return out


@contextmanager
def keeping(out: Path | None, done: "Callable[[], Sequence[Frame]]") -> Iterator[None]:
    """Where an error or an interrupt ends the work, the frames that are done by then go to a file beside ``out``.

    Not to ``out`` itself: what is there may be the input, and a part of the frames is no replacement for all of them.
    """
    try:
        yield
    except BaseException:
        frames = done()
        if out is not None and frames:
            from mosso.data.writers import write_frames

            beside = out.with_name(f"partial-{out.name}")
            write_frames(beside, frames)
            note(f"Wrote the first {plural(len(frames), 'frame')} to {beside}.")
        raise
