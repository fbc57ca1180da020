"""One competitor of a comparison: a package's backend with a model loaded, in a worker started when it is asked, or before."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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
    without trying again. So that several import and load side by side, ``start`` and ``begin_to_load`` do not wait.

    Attributes:
        arguments: of the adapter, beside backend and device; read when it begins to load.
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
    _model: Literal["absent", "coming", "there"] = "absent"
    _obstacle: WorkerError | None = None

    @property
    def list_inside(self) -> bool:
        """Whether the package searches for neighbours in every evaluation."""
        return bool(self.loaded.get("list_inside", False))

    @property
    def holder(self) -> str:
        return f"{self.package}, {self.backend}"

    def start(self) -> None:
        """Start a worker where there is none. Nothing is waited for, and no failure told yet."""
        if self._obstacle is None and (self._worker is None or not self._worker.alive):
            try:
                self._worker, self._model = self._new_worker(), "absent"
            except WorkerError as error:
                self._obstacle = error

    def begin_to_load(self) -> None:
        """Start, and ask for the model where it was not asked for. Nothing is waited for, and no failure told yet."""
        self.start()
        if self._obstacle is None and self._worker is not None and self._model == "absent":
            self._worker.send("load", backend=self.backend, device=self.place.device, **self.arguments)
            self._model = "coming"

    def settle(self) -> None:
        """Wait for the model where it is coming: then the process is idle, or gone."""
        if self._model == "coming":
            with suppress(WorkerError):  # told when it is asked
                self.load()

    def load(self) -> dict[str, Any]:
        """Start the worker and load the model where that is not done yet; the reply of the adapter."""
        self.begin_to_load()
        if self._obstacle is not None:
            raise self._obstacle
        assert self._worker is not None
        if self._model == "coming":
            try:
                self._worker.ready()
                self.described, self.start_s = self._worker.described, self._worker.start_s
                self.loaded = self._worker.reply("load", self.place.timeout)
            except WorkerError as error:
                self.close()
                self._obstacle = error
                raise
            self._model = "there"
        return self.loaded

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """As ``Worker.ask``, of a worker that has the model."""
        self.load()
        assert self._worker is not None
        return self._worker.ask(do, self.place.timeout, **arguments)

    def release(self) -> None:
        """Forget the atoms; a worker that cannot is ended."""
        if self._worker is not None and self._worker.alive and self._model == "there":
            try:
                self._worker.ask("release", self.place.timeout)
            except WorkerError:
                self.close()

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()
            self._worker, self._model = None, "absent"

    def _new_worker(self) -> Worker:
        place = self.place
        try:
            interpreter = place.interpreter(self.package)
        except ValueError as error:
            raise WorkerError("failure", str(error)) from None
        adapter = place.adapter(self.package)
        if not adapter.is_file():
            raise WorkerError("unsupported", f"there is no adapter for {self.package}")
        return Worker(interpreter.python, adapter, {**interpreter.environment, **self.variables}, place.folder)
