"""What holds an evaluation up, in one line.

The rule, in this order:

1. Idle: a GPU that computes for less than half of the time of a call (on the CPU: ops that take less than half of it) waits for the
   host. The host either issues work or does other things: **launch-bound** if it spends at least as long inside ops and driver calls
   as outside of them, **host-bound** otherwise. Off CUDA nothing is launched, so it is host-bound.
2. Busy: arithmetic and traffic that were counted (mosso.bench.limits), each at the full rate of the device, say which would take
   longer: **compute-bound** or **bandwidth-bound**.
3. Busy, but both would take less than a quarter of the time, or the work was not counted: **device-bound**. The device is held up by
   something else: kernels too small to fill it, or slow for a reason of their own.

Rates are those of the device where they are known (mosso.bench.rates), else measured by a matrix product and a copy.
"""

from dataclasses import dataclass

from mosso.bench.limits import Cost
from mosso.bench.rates import Rates

IDLE = 0.5
FAR = 0.25


@dataclass(frozen=True)
class Work:
    """Counted work of one call: operations, compulsory bytes; milliseconds of either at full rate, and least ones op by op."""

    flops: float
    bytes: float
    arithmetic_ms: float
    memory_ms: float
    least_ms: float

    @staticmethod
    def of(costs: list[Cost], rates: Rates) -> "Work":
        flops, traffic = sum(cost.flops for cost in costs), sum(cost.bytes for cost in costs)
        least = 1e-3 * sum(cost.microseconds(rates) for cost in costs)
        return Work(flops, traffic, 1e3 * flops / rates.arithmetic, 1e3 * traffic / rates.memory, least)


@dataclass(frozen=True)
class Times:
    """One call.

    Attributes:
        wall: milliseconds without the profiler.
        busy: share of the call in which the device computes; on the CPU in which ops run.
        issuing, own: milliseconds of the host inside ops and driver calls, and outside of them.
        launches: kernels; None on the CPU.
    """

    wall: float
    busy: float
    issuing: float
    own: float
    launches: float | None


def verdict(times: Times, work: Work | None) -> str:
    """``launch-bound: ...`` and so on; ``work`` is None where it was not counted."""
    if times.busy < IDLE:
        return _waiting_for_host(times)
    said = f"{'the device is busy' if times.launches is not None else 'ops run'} {times.busy:.0%} of the time"
    if work is None:
        return f"device-bound: {said}; the work of this architecture is not counted"
    arithmetic, traffic = work.arithmetic_ms / times.wall, work.memory_ms / times.wall
    shares = f"at full rate the least arithmetic would take {_percent(arithmetic)} of it, the least traffic {_percent(traffic)}"
    if max(arithmetic, traffic) < FAR:
        return f"device-bound: {said}, far from either limit; {shares}"
    return f"{'compute' if arithmetic > traffic else 'bandwidth'}-bound: {said}; {shares}"


def _waiting_for_host(times: Times) -> str:
    if times.launches is None:
        return f"host-bound: {1 - times.busy:.0%} of the time is spent outside of ops"
    said = f"the device is idle {1 - times.busy:.0%} of the time"
    if times.issuing >= times.own:
        return f"launch-bound: {said}, while the host issues {times.launches:.0f} launches"
    return f"host-bound: {said}, and the host is more outside of ops than inside"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "less than 1%"
