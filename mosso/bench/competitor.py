"""One competitor of a comparison: a package's backend with a model loaded, in a worker that is started when it is asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mosso.bench.environments import Interpreter
from mosso.bench.workers import Worker, WorkerError

HERE = Path(__file__).parent
ADAPTERS = {"mosso": HERE / "ours.py", "ase": HERE / "peers" / "ase_calculator.py"}


def adapter_of(package: str) -> Path:
    """The script that serves a package."""
    return ADAPTERS.get(package, HERE / "peers" / f"{package.replace('-', '_')}.py")


@dataclass(frozen=True)
class Workplace:
    """What competitors need to run.

    Attributes:
        interpreter: finds that of a package; a ValueError says why there is none.
        folder: for files that pass between processes.
        device: where they compute.
        timeout: seconds that one request may take.
        adapter: the script of a package.
    """

    interpreter: Callable[[str], Interpreter]
    folder: Path
    device: str
    timeout: float
    adapter: Callable[[str], Path] = adapter_of


@dataclass(eq=False)
class Contestant:
    """A package and backend with one model in one precision.

    A worker that ended is started anew at the next request. What keeps the model from being loaded is told at every request,
    without trying again.

    Attributes:
        arguments: of the adapter, beside backend and device.
        variables: of the worker's environment.
        loaded: reply to the last ``load``, with the adapter's facts.
        described: reply of the process at its start.
        start_s: seconds until the package was imported.
    """

    package: str
    backend: str
    place: Workplace
    arguments: Mapping[str, Any]
    variables: Mapping[str, str] = field(default_factory=dict)
    loaded: dict[str, Any] = field(default_factory=dict)
    described: dict[str, Any] = field(default_factory=dict)
    start_s: float | None = None
    _worker: Worker | None = None
    _obstacle: WorkerError | None = None

    @property
    def list_inside(self) -> bool:
        """Whether the package searches for neighbours in every evaluation."""
        return bool(self.loaded.get("list_inside", False))

    @property
    def holder(self) -> str:
        return f"{self.package}, {self.backend}"

    def load(self) -> dict[str, Any]:
        """Start the worker and load the model where that is not done yet; the reply of the adapter."""
        if self._obstacle is not None:
            raise self._obstacle
        if self._worker is None or not self._worker.alive:
            try:
                self._start()
            except WorkerError as error:
                self.close()
                self._obstacle = error
                raise
        return self.loaded

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """As ``Worker.ask``, of a worker that has the model."""
        self.load()
        assert self._worker is not None
        return self._worker.ask(do, self.place.timeout, **arguments)

    def release(self) -> None:
        """Forget the atoms; a worker that cannot is ended."""
        if self._worker is not None and self._worker.alive:
            try:
                self._worker.ask("release", self.place.timeout)
            except WorkerError:
                self.close()

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _start(self) -> None:
        place = self.place
        try:
            interpreter = place.interpreter(self.package)
        except ValueError as error:
            raise WorkerError("failure", str(error)) from None
        adapter = place.adapter(self.package)
        if not adapter.is_file():
            raise WorkerError("unsupported", f"there is no adapter for {self.package}")
        self._worker = Worker(interpreter.python, adapter, {**interpreter.environment, **self.variables}, place.folder)
        self.described, self.start_s = self._worker.described, self._worker.start_s
        self.loaded = self._worker.ask("load", place.timeout, backend=self.backend, device=place.device, **self.arguments)
