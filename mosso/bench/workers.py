"""The process of one competitor, seen from here: started, asked with a time limit, and gone with all it started when it is closed."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

SERVE = Path(__file__).parent / "peers" / "serve.py"
# Seconds an interpreter may take until it has imported its package.
START_TIMEOUT = 600.0
TAIL = 3  # lines of what a process printed last that an error repeats
LINE = 200  # characters of each

Kind = Literal["memory", "unsupported", "failure", "timeout", "crash"]


class WorkerError(Exception):
    """What a competitor could not do.

    Attributes:
        kind: ``memory`` (the device ran out), ``unsupported`` (the package cannot), ``failure`` (it raised an error and lives on),
            ``timeout`` and ``crash`` (the process is gone).
    """

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Worker:
    """A live ``serve.py`` with one adapter. It is not waited for: while it imports its package, others can be started.

    Attributes:
        described: versions, threads and CUDA of the process, as it says itself; empty until ``ready``.
        start_s: seconds until it had imported its package; None until ``ready``.

    Args:
        python: interpreter.
        adapter: script with the class ``Adapter``.
        environment: variables on top of ours.
        folder: where its temporary files go, and what it prints.

    Raises:
        WorkerError: the interpreter cannot be run.
    """

    def __init__(self, python: Path, adapter: Path, environment: Mapping[str, str], folder: Path) -> None:
        self._log = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed with the worker)
        self._asked_at = 0  # bytes of the log before the last request
        self.described: dict[str, Any] = {}
        self.start_s: float | None = None
        self._started_at = time.perf_counter()
        try:
            # A session of its own: Ctrl-C reaches us alone, and what the process starts can be ended with it.
            self._process = subprocess.Popen(
                [python, "-W", "ignore", SERVE, adapter],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                env=os.environ | {"TMPDIR": str(folder)} | dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            self._log.close()
            raise WorkerError("crash", f"{python} cannot be run: {error.strerror}") from None
        self._replies: queue.SimpleQueue[tuple[float, str | None]] = queue.SimpleQueue()  # with the time of their arrival
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.alive = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def ask(self, do: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        """The reply to one request.

        Args:
            do: a function of ``serve.Server``.
            timeout: seconds, after which the process is ended.
            arguments: those of the function.

        Raises:
            WorkerError: says what went wrong; after ``timeout`` and ``crash`` the worker is no longer ``alive``.
        """
        self.send(do, **arguments)
        return self.reply(do, timeout)

    def ready(self) -> None:
        """Waits until the package is imported; a WorkerError where it cannot be, and the process is gone."""
        if self.start_s is None:
            try:
                arrived, self.described = self._reply(START_TIMEOUT, "start")
            except BaseException:
                self.close()
                raise
            self.start_s = arrived - self._started_at

    def send(self, do: str, **arguments: Any) -> None:
        """A request as for ``ask``, whose ``reply`` has to be taken before the next one; the process may still be importing."""
        assert self.alive, "asked after its end"
        assert self._process.stdin is not None
        if self.start_s is not None:  # else what was printed at the start is still to be told
            self._asked_at = os.fstat(self._log.fileno()).st_size
        with contextlib.suppress(BrokenPipeError):  # then the reply is the end of its output
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()

    def reply(self, do: str, timeout: float) -> dict[str, Any]:
        """To the request sent; errors as of ``ask``."""
        self.ready()
        return self._reply(timeout, do)[1]

    def close(self) -> None:
        """Ends the process and all it started; nothing in it needs to be saved."""
        self.alive = False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _reply(self, timeout: float, do: str) -> tuple[float, dict[str, Any]]:
        """When it came, and what it says."""
        try:
            arrived, line = self._replies.get(timeout=timeout)
        except queue.Empty:
            self._end("timeout", f"no reply to {do} within {timeout:g} s")
        except KeyboardInterrupt:
            self.close()  # its reply would be taken for that to another request
            raise
        if line is None:
            # Told before the group is killed, so that the signal is its own.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5.0)
            self._end("crash", f"the process ended during {do} ({_ending(self._process.returncode)})")
        try:
            reply = json.loads(str(line))
        except json.JSONDecodeError:
            reply = None
        if not isinstance(reply, dict):
            self._end("crash", f"the reply to {do} is not understood: {line.strip()[:LINE]!r}")
        if "error" in reply:
            raise WorkerError(reply["kind"], reply["error"])
        return arrived, reply

    def _end(self, kind: Kind, message: str) -> Any:
        tail = self._last_lines()
        self.close()
        raise WorkerError(kind, f"{message}; it printed: {tail}" if tail else message)

    def _last_lines(self) -> str:
        """What the process printed last since it was asked, on one line."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(size - 10_000, self._asked_at))
        lines = [line.strip()[:LINE] for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return " / ".join(lines[-TAIL:])

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, UnicodeDecodeError):  # closed, or bytes that are no text
            for line in self._process.stdout:
                self._replies.put((time.perf_counter(), line))
        self._replies.put((time.perf_counter(), None))


def _ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None:
        return "its output is closed"
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, as the system does when memory runs out" if -code == signal.SIGKILL else name
