"""A thread that writes, so that the loop does not wait for the disk."""

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

MAX_WAITING = 64  # calls; whoever is faster than the disk waits then, rather than filling the memory


class WriterThread:
    """Makes calls one after the other, in the order they were given, in a thread of its own.

    ``with WriterThread() as writer: simulate(..., on_frame=writer.later(trajectory), on_log=writer.later(table))``

    An error in a call is raised by the next ``submit``, ``wait`` or ``close`` here, once; calls after the one that failed are
    dropped, because what they write would leave a gap. Signals reach the main thread only, so an interrupt never tears a frame.
    """

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(max_waiting)
        self._error: BaseException | None = None
        self._failed = False
        self._thread = threading.Thread(target=self._work, name="mosso-writer", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Ask for ``call(*arguments)``; waits while the queue is full."""
        assert self._thread.is_alive(), "closed already"
        self._raise()
        self._queue.put(lambda: call(*arguments))

    def later(self, call: Callable[..., Any]) -> Callable[..., None]:
        """A function that submits ``call`` with its arguments."""
        return lambda *arguments: self.submit(call, *arguments)

    def wait(self) -> None:
        """Wait until everything asked for is done."""
        self._queue.join()
        self._raise()

    def close(self) -> None:
        """Do what is still waiting, then end the thread; closing again does nothing."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._raise()

    def _work(self) -> None:
        while True:
            call = self._queue.get()
            try:
                if call is None:
                    return
                if not self._failed:
                    call()
            except BaseException as error:  # to be raised where somebody hears it
                self._failed, self._error = True, error
            finally:
                self._queue.task_done()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
