"""The trace of a profiler: its events, which of them lies in which, and which part of a model each belongs to.

Works on a Chrome trace as torch.profiler writes it, and needs neither torch nor a device. Ranges put into it by blocks.py say
where the host is: ``mosso: BLOCK`` in a block of the model, ``mosso.kernels: OP`` in an op. Work of the backward pass belongs where its
forward op was called, which has the same sequence number. What cannot be told apart is ``other``.
"""

import gzip
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

Category = Literal["range", "op", "node", "runtime", "kernel"]

PREFIX, OP_PREFIX = "mosso: ", "mosso.kernels: "
CALL, REPLAY = "call", "replay"  # ranges around a whole call, plain or of a recorded graph, which are no blocks
OTHER = "other"
SLACK = 0.005  # microseconds by which rounding may let an event stick out of the one around it

_CATEGORIES: dict[str, Category] = {
    "user_annotation": "range",
    "cpu_op": "op",
    "cuda_runtime": "runtime",
    "cuda_driver": "runtime",
    **dict.fromkeys(("kernel", "gpu_memcpy", "gpu_memset"), "kernel"),
}


@dataclass(eq=False)
class Event:
    """One bar of the trace; times in microseconds.

    Attributes:
        category: ``range`` (named by us), ``op`` (of torch), ``node`` (of the backward pass, around its ops), ``runtime`` (a call of
            the CUDA driver), ``kernel`` (on the device, copies and fills included).
        thread: of the host; the stream of a kernel.
        correlation: the same for a kernel and the call that launched it.
        sequence: the same for a node and the op that made it.
        external: number of an op; a call of the driver has that of the op around it.
        parent: the event right around it on the same thread; ``own`` is its time without the events inside.
    """

    name: str
    category: Category
    start: float
    duration: float
    thread: Any = 0
    correlation: int | None = None
    sequence: int | None = None
    external: int | None = None
    parent: "Event | None" = None
    own: float = 0.0

    @property
    def end(self) -> float:
        return self.start + self.duration

    @property
    def is_call(self) -> bool:
        return self.category == "range" and self.name in (PREFIX + CALL, PREFIX + REPLAY)

    @property
    def replays(self) -> bool:
        """Whether a recorded graph is launched here."""
        return self.category == "runtime" and "GraphLaunch" in self.name

    @property
    def waits(self) -> bool:
        """Whether the host only waits for the device here."""
        return self.category == "runtime" and "ynchronize" in self.name


def read_trace(path: Path) -> list[Event]:
    """The events of a Chrome trace that count, ranges of other programs left out."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return events_of(json.load(file)["traceEvents"])


def events_of(records: Iterable[dict[str, Any]]) -> list[Event]:
    """Chrome trace records as events. Ranges projected on the device (``gpu_user_annotation``) are no work and are dropped."""
    events = []
    for record in records:
        category = _CATEGORIES.get(record.get("cat", ""))
        if record.get("ph") != "X" or category is None or (category == "range" and not record["name"].startswith((PREFIX, OP_PREFIX))):
            continue
        args = record.get("args", {})
        if category == "op" and args.get("Fwd thread id"):
            category = "node"
        thread = args.get("stream", record.get("tid")) if category == "kernel" else record.get("tid")
        numbers = args.get("correlation"), args.get("Sequence number"), args.get("External id")
        events.append(Event(record["name"], category, float(record["ts"]), float(record.get("dur", 0.0)), thread, *numbers))
    return events


def nested(events: Sequence[Event]) -> list[Event]:
    """The events by start, each with its parent and its own time."""
    ordered = sorted(events, key=lambda event: (event.start, -event.duration))
    open_events: dict[Any, list[Event]] = defaultdict(list)
    numbered = {event.external: event for event in ordered if event.category != "runtime" and event.external is not None}
    for event in ordered:
        stack = open_events[event.thread]
        while stack and (stack[-1].end <= event.start or stack[-1].end + SLACK < event.end):
            stack.pop()
        event.parent, event.own = (stack[-1] if stack else None), event.duration
        if event.parent is None and event.category == "runtime" and event.external is not None:
            event.parent = numbered.get(event.external)  # the driver may name threads in its own way
        if event.parent:
            event.parent.own -= event.duration
        stack.append(event)
    return ordered


class Place(NamedTuple):
    """The block of a model, and the op of mosso.kernels, that something happens in."""

    block: str = OTHER
    op: str = OTHER


class Places:
    """Where the events of a trace belong."""

    def __init__(self, host: Sequence[Event]) -> None:
        self._found: dict[int, Place] = {}
        self._forward: dict[int, Place] = {}
        # An op that makes no node has the number of the next one that does: the last op of a number made the node.
        for event in host:
            if event.category == "op" and event.sequence is not None:
                self._forward[event.sequence] = self.of(event)

    def of(self, event: Event | None) -> Place:
        """The place of a host event; None (a launch that was not seen) is ``other``."""
        if event is None:
            return Place()
        if id(event) not in self._found:
            self._found[id(event)] = self._look_up(event)
        return self._found[id(event)]

    def _look_up(self, event: Event) -> Place:
        if event.category == "node" and event.sequence is not None:
            return self._forward.get(event.sequence, Place())
        around = self.of(event.parent)
        if event.category != "range" or event.is_call:
            return around
        if event.name.startswith(OP_PREFIX):
            return around._replace(op=event.name.removeprefix(OP_PREFIX))
        return around._replace(block=event.name.removeprefix(PREFIX).rstrip(" 0123456789"))


class Windows:
    """Intervals that do not overlap."""

    def __init__(self, intervals: Iterable[tuple[float, float]]) -> None:
        self._intervals = sorted(intervals)
        self._starts = [start for start, _ in self._intervals]

    def index(self, time: float) -> int | None:
        """Which one a time lies in."""
        index = bisect_right(self._starts, time) - 1
        return index if index >= 0 and time <= self._intervals[index][1] else None
