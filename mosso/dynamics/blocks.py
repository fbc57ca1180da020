"""The loop of dynamics and relaxation: speculation with rollback, so that the device never waits for the host.

Time is cut into blocks of steps. The first step of a block searches the neighbours, the others filter what it found. Whether a
list was too small or an atom left the skin is written on the device, and the host looks at it after the block, while on CUDA the
next block is already running. If something went wrong, the state before the block is put back, the cause is cured (shorter
blocks, or larger lists) and the block is made again; nothing of the abandoned steps is seen outside. Noise depends on seed and
step alone and the order of edges on the positions alone, so a block made again has the bits of one that went well at once.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from mosso.data.structure import Batch
from mosso.dynamics.runners import CapturedRunner, EagerRunner, Kind, Runner
from mosso.dynamics.state import Evaluation, ForceField
from mosso.graph.device_list import MOVED, DeviceList
from mosso.graph.graph import Graph
from mosso.kernels import preferred

FIRST_BLOCK = 4  # steps
MAX_BLOCK = 512  # steps
MAX_SECONDS = 0.5  # of a block: how long an interrupt or a line of the log may have to wait
SAFE_MOVE = 0.6  # share of the skin that a block is planned to use: a search costs less than two blocks made in vain

Evaluate = Callable[[Batch, bool], Evaluation]  # of a batch, with stress or without


class Course(Protocol):
    """A state that blocks can move: a frozen dataclass of tensors."""

    @property
    def batch(self) -> Batch: ...

    @property
    def status(self) -> Tensor: ...  # what the host wants to know after every block; small

    @property
    def failed(self) -> Tensor: ...  # () bool, what follows means nothing: the host will stop there


C = TypeVar("C", bound=Course)


class Bound(Protocol):
    """A force field for certain atoms, which does not wait for the device."""

    def evaluate(self, batch: Batch, graph: Graph, *, stress: bool = False) -> Evaluation: ...


@runtime_checkable
class Binding(Protocol):
    """A force field that can be tied to certain atoms."""

    def bind(self, batch: Batch) -> Bound: ...


class Process(Protocol[C]):
    """What is done in a step, in tensor operations without host reads."""

    def step(self, course: C, evaluate: Evaluate, recorded: bool) -> C: ...

    def row(self, course: C) -> Tensor: ...  # of a recorded step


@dataclass(frozen=True, eq=False)
class Record(Generic[C]):
    """What is kept of one step, on the host: its row, and its state where asked for."""

    step: int
    row: Tensor
    course: C | None


@dataclass(frozen=True, eq=False)
class Block(Generic[C]):
    """Steps first + 1 to last, and what is known of them on the host.

    Attributes:
        records: of the steps that are recorded.
        status: of the course after the last step.
    """

    first: int
    last: int
    records: list[Record[C]]
    status: Tensor
    before: "_Tracked[C]"
    cause: Tensor
    used: Tensor
    wait: Callable[[], None]


@dataclass(frozen=True, eq=False)
class _Tracked(Generic[C]):
    """A course, the first flags of the list that count (() int32, 0 for none), and the row of the last recorded step."""

    course: C
    cause: Tensor
    row: Tensor


def can_capture(potential: ForceField) -> bool:
    """Whether whole steps, search and evaluation, can stand in a CUDA graph."""
    return isinstance(potential, Binding) and preferred("neighbor_list", potential.device) == "triton"


class SearchError(ValueError):
    """The host's search for neighbours refused the positions."""


class Pace:
    """How many steps the next block has: as many as atoms take to use up most of the skin, and no more than fit in a moment."""

    def __init__(self, steps: int = FIRST_BLOCK) -> None:
        self.steps = steps

    def went_well(self, num_steps: int, used: float, seconds: float) -> None:
        """A block was right; ``used`` is the share of the way atoms may go without a new search, ``seconds`` its time."""
        # the first step starts a list, so it uses nothing of it; without a skin there is no way to go, and used is not a number
        reach = 1 if math.isnan(used) else MAX_BLOCK if used == 0.0 else 1 + int((num_steps - 1) * SAFE_MOVE / used)
        in_time = max(1, int(MAX_SECONDS * num_steps / max(seconds, 1e-9)))
        self.steps = max(1, min(reach, in_time, 2 * num_steps + 1, MAX_BLOCK))

    def was_too_long(self, num_steps: int) -> None:
        self.steps = max(1, num_steps // 2)


class Blocks(Generic[C]):
    """Moves a course from step ``first`` to step ``last``; ``run`` gives the blocks that are known to be right.

    Args:
        process: what a step does.
        potential: the force field. One with ``bind`` (mosso.Potential) is captured on CUDA; any other is called step by step.
        course: at step ``first``.
        first, last: steps.
        recorded: whether a step is recorded.
        kept: whether the course of a recorded step is kept too.
        skin: Angstrom, how far the lists reach beyond the cutoff.

    Attributes:
        step: the last step known to be right.
        num_rollbacks, num_rebuilds: blocks made again, searches made.
    """

    def __init__(
        self,
        process: Process[C],
        potential: ForceField,
        course: C,
        *,
        first: int,
        last: int,
        recorded: Callable[[int], bool],
        kept: Callable[[int], bool],
        skin: float,
    ) -> None:
        self._captured = can_capture(potential)
        self._field = potential.bind(course.batch) if isinstance(potential, Binding) else potential
        self._process, self._recorded, self._kept = process, recorded, kept
        self._neighbors = DeviceList(course.batch, potential.cutoff, skin)
        tracked = _Tracked(course, torch.zeros_like(self._neighbors.flags[0]), process.row(course))
        self._runner: Runner[_Tracked[C]] = (
            CapturedRunner(self._advance, tracked, lambda: [self._neighbors.flags])
            if self._captured
            else EagerRunner(self._advance, tracked)
        )
        self._pace, self._last = Pace(), last
        self._pending: deque[Block[C]] = deque()  # asked for, and not yet known to be right
        self.step, self.num_rollbacks, self.num_rebuilds = first, 0, 0

    @property
    def course(self) -> C:
        """Where ``step`` led, whenever ``run`` has just given a block or has ended."""
        return self._pending[0].before.course if self._pending else self._runner.snapshot().course

    def run(self) -> Iterator[Block[C]]:
        """Blocks in order, each once it is known to be right."""
        pending, launched, before = self._pending, self.step, perf_counter()
        while self.step < self._last:
            if launched < self._last and len(pending) <= self._runner.ahead:
                pending.append(self._launch(launched, self._end(launched)))
                launched = pending[-1].last
                continue
            block = pending.popleft()
            block.wait()
            now = perf_counter()
            if int(block.cause):
                self._roll_back(block)
                pending.clear()
                launched = block.first
            else:
                self._pace.went_well(block.last - block.first, float(block.used), now - before)
                self.step = block.last
                yield block
            before = now

    def _end(self, first: int) -> int:
        """The last step of the block after ``first``: so that the next one, if it can be helped, does not begin with a step that is
        recorded. That would be one more kind of step, and late in a run another recording of a graph."""
        last = min(first + self._pace.steps, self._last)
        spoilt = self._recorded(last + 1) and not self._recorded(last)
        return last - 1 if spoilt and first + 1 < last < self._last else last

    def _launch(self, first: int, last: int) -> Block[C]:
        """Ask the device for the steps after ``first`` to ``last``."""
        runner, records = self._runner, []
        before = runner.snapshot()
        for step in range(first + 1, last + 1):
            recorded = self._recorded(step)
            runner.step(Kind(rebuild=step == first + 1, recorded=recorded))
            if recorded:
                now = runner.state
                records.append(Record(step, runner.fetch(now.row), runner.fetch(now.course) if self._kept(step) else None))
        self.num_rebuilds += 1
        now = runner.state
        status, cause, used = map(runner.fetch, (now.course.status, now.cause, self._neighbors.used(now.course.batch)))
        return Block(first, last, records, status, before, cause, used, runner.mark())

    def _advance(self, tracked: _Tracked[C], kind: Kind) -> _Tracked[C]:
        def evaluate(batch: Batch, stress: bool) -> Evaluation:
            if kind.rebuild:
                self._search(batch)
            graph = self._neighbors.graph(batch)
            # what is not captured waits for the host anyway, and does not pay for padding
            return self._field.evaluate(batch, graph if self._captured else graph.trimmed(), stress=stress)

        course = self._process.step(tracked.course, evaluate, kind.recorded)
        unheard = (tracked.cause == 0) & ~tracked.course.failed
        cause = torch.where(unheard, self._neighbors.flags[0], tracked.cause)
        return _Tracked(course, cause, self._process.row(course) if kind.recorded else tracked.row)

    def _search(self, batch: Batch) -> None:
        try:
            self._neighbors.rebuild(batch)
        except ValueError as error:
            raise SearchError(str(error)) from error

    def _roll_back(self, block: Block[C]) -> None:
        """Put back the state before ``block`` and cure what spoiled it."""
        self._runner.restore(block.before)
        self.num_rollbacks += 1
        num_steps = block.last - block.first
        if int(block.cause) & MOVED:
            if num_steps == 1:
                raise SearchError("Atoms moved to where no neighbours can be found.")
            self._pace.was_too_long(num_steps)
        if int(block.cause) & ~MOVED:
            self._neighbors = self._neighbors.grown(block.before.course.batch)
            self._runner.forget()
        self._neighbors.reset()
