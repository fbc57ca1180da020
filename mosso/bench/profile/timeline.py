"""A trace taken apart: what each block of a model costs the device and the host, counted once.

A kernel belongs to the block that launched it, one of a replayed CUDA graph to that of its counterpart in a plain call
(replays.py).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mosso.bench.profile.replays import aligned
from mosso.bench.profile.trace import CALL, OTHER, PREFIX, REPLAY, Event, Place, Places, Windows, nested

HOST, COPIES = "host", "copies"
Sums = defaultdict[str, float]


@dataclass(frozen=True)
class Block:
    """Milliseconds and launches per call. ``device_ms``: kernels, on the CPU ops without what they call. ``host_ms``: the host's own time,
    without waiting for the device; on the CPU without ops."""

    block: str
    device_ms: float
    host_ms: float
    launches: float | None


@dataclass(frozen=True)
class Op:
    """An op of mosso.kernels, both directions: milliseconds of the device and launches per call."""

    op: str
    device_ms: float
    launches: float | None


@dataclass(frozen=True)
class Kernel:
    """Launches and microseconds per call, and the share of the time of all."""

    kernel: str
    launches: float
    us: float
    share: float


@dataclass(frozen=True)
class Timeline:
    """The ranges of one name taken apart; milliseconds per call.

    Attributes:
        blocks: the most expensive first, ``other`` and ``host`` last. On the CPU their device and host times add up to ``span_ms``. Of
            replays, ``copies`` is what is launched beside the recorded graph.
        ops: the most expensive first; what belongs to none is ``other``, the last.
        kernels: on the CPU the ops of torch, each without those it calls; the most expensive first.
        span_ms: length of the range, profiler and all.
        busy_ms: in which the device computes; overlapping kernels count once.
        issuing_ms, own_ms: the host inside ops of torch and driver calls (without waiting), and outside of them: Python, and on the CPU
            whatever is no op of torch.
        launches: kernels; None on the CPU.
    """

    blocks: tuple[Block, ...]
    ops: tuple[Op, ...]
    kernels: tuple[Kernel, ...]
    span_ms: float
    busy_ms: float
    issuing_ms: float
    own_ms: float
    launches: float | None


def analyse(events: Sequence[Event], span: str = CALL, *, on_device: bool) -> Timeline:
    """What happens inside the ranges called ``mosso: SPAN``.

    Args:
        events: of the whole trace; nested here.
        span: which ranges are taken apart, each of them one call. Blocks are the ranges inside; a span that is itself a block counts
            as it. Replays need plain calls beside them in the trace, else their kernels are ``other``.
        on_device: whether kernels compute, or (on the CPU) the ops of torch themselves.

    Raises:
        ValueError: the trace has no such range.
    """
    host = nested([event for event in events if event.category != "kernel"])
    spans = _spans(host, span)
    if not spans:
        raise ValueError(f"The trace has no range {PREFIX + span!r}: make it with `mosso profile`.")
    places, windows = Places(host), _windows(spans)
    kernels = _placed(events, host, places, span) if on_device else []
    inside = [event for event in host if windows.index(event.start) is not None]
    ops = [event for event in inside if event.category == "op"]
    work = kernels or [(event, places.of(event)) for event in ops if not on_device]

    own = Sums(float)
    for event in inside:
        if not (event.is_call or event.waits or (event.category == "op" and not on_device)):
            own[HOST if span == REPLAY else places.of(event).block] += event.own
    length = sum(event.duration for event in spans)
    # While the backward pass runs on a thread of its own, the one that called it does nothing of its own.
    own[HOST] += max(length - covered((event.start, event.end) for event in inside if not event.is_call), 0.0)

    calls = [event for event in inside if event.category in ("op", "node", "runtime")]
    scale = 1e-3 / len(spans)
    return Timeline(
        blocks=_block_rows(work, own, on_device, len(spans)),
        ops=_op_rows(work, on_device, len(spans)),
        kernels=_kernel_rows(work, len(spans)),
        span_ms=length * scale,
        busy_ms=scale * (covered((kernel.start, kernel.end) for kernel, _ in kernels) if on_device else sum(op.own for op in ops)),
        issuing_ms=sum(event.own for event in calls if not event.waits) * scale,
        own_ms=(length - covered((event.start, event.end) for event in calls)) * scale,
        launches=len(kernels) / len(spans) if on_device else None,
    )


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def _spans(host: Sequence[Event], span: str) -> list[Event]:
    return [event for event in host if event.category == "range" and event.name == PREFIX + span]


def _windows(spans: Iterable[Event]) -> Windows:
    return Windows((event.start, event.end) for event in spans)


Work = tuple[Event, Place]


def _placed(events: Sequence[Event], host: Sequence[Event], places: Places, span: str) -> list[Work]:
    """The kernels of the spans by start, each with its place."""
    spans = _spans(host, span)
    launched = _launched(events, host, _windows(spans))
    if span != REPLAY:
        return [(kernel, places.of(launcher)) for kernel, launcher, _ in launched]
    plain = _launched(events, host, _windows(_spans(host, CALL)[-1:]))  # the last call is the one most like a replay
    pattern = [(kernel.name, places.of(launcher)) for kernel, launcher, _ in plain]
    found = [(kernel, Place(COPIES)) for kernel, launcher, _ in launched if launcher is not None and not launcher.replays]
    of_calls = defaultdict[int, list[Event]](list)
    for kernel, launcher, call in launched:
        if launcher is None or launcher.replays:
            of_calls[call].append(kernel)
    known: dict[tuple[str, ...], list[Place]] = {}  # replays of one recording have the same kernels
    for kernels in of_calls.values():
        names = tuple(kernel.name for kernel in kernels)
        known[names] = known.get(names) or aligned(pattern, names)
        found += zip(kernels, known[names], strict=True)
    return found


def _launched(events: Sequence[Event], host: Sequence[Event], windows: Windows) -> list[tuple[Event, Event | None, int]]:
    """The kernels launched within the windows by start, each with the call of the driver that did and the number of its window; where
    no call is known, those that ran there."""
    launchers = {event.correlation: event for event in host if event.category == "runtime" and event.correlation is not None}
    found = []
    for kernel in sorted((event for event in events if event.category == "kernel"), key=lambda kernel: kernel.start):
        launcher = launchers.get(-1 if kernel.correlation is None else kernel.correlation)
        window = windows.index((launcher or kernel).start)
        if window is not None:
            found.append((kernel, launcher, window))
    return found


def _sums(named: Iterable[tuple[str, Event]]) -> tuple[Sums, Counter[str]]:
    """Microseconds of computing and number of events, by name."""
    total, count = Sums(float), Counter[str]()
    for name, event in named:
        total[name] += event.duration if event.category == "kernel" else event.own
        count[name] += 1
    return total, count


def _block_rows(work: Sequence[Work], own: Sums, on_device: bool, calls: int) -> tuple[Block, ...]:
    device, launches = _sums((place.block, event) for event, place in work)
    names = sorted({*device, *own} - {OTHER, HOST}, key=lambda name: (-device[name] - own[name], name))
    scale = 1e-3 / calls
    return tuple(
        Block(name, device[name] * scale, own[name] * scale, launches[name] / calls if on_device else None)
        for name in (*names, OTHER, HOST)
    )


def _op_rows(work: Sequence[Work], on_device: bool, calls: int) -> tuple[Op, ...]:
    device, launches = _sums((place.op, event) for event, place in work)
    names = sorted(set(device) - {OTHER}, key=lambda name: -device[name])
    return tuple(Op(name, device[name] * 1e-3 / calls, launches[name] / calls if on_device else None) for name in (*names, OTHER))


def _kernel_rows(work: Sequence[Work], calls: int) -> tuple[Kernel, ...]:
    total, count = _sums((event.name, event) for event, _ in work)
    everything = sum(total.values())
    return tuple(
        Kernel(name, count[name] / calls, duration / calls, duration / everything if everything else 0.0)
        for name, duration in sorted(total.items(), key=lambda item: -item[1])
    )
