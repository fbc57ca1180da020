"""Which of two measurements is faster, and whether the difference is more than chance."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mosso.bench.rows import Row

OURS = "mosso"
Z = 1.96  # 95 % of a normal distribution lie within so many standard deviations


class Ratio(NamedTuple):
    """How many times faster the second of two measurements is, with its interval of 95 % (None where a median has none)."""

    value: float
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str:
        """``faster``, ``slower`` or ``no difference``; ``no interval`` where chance cannot be told apart."""
        if self.low is None or self.high is None:
            return "no interval"
        return "faster" if self.low > 1 else "slower" if self.high < 1 else "no difference"


def ratio(before: Row, after: Row) -> Ratio | None:
    """Time of ``before`` over that of ``after``; None where one has no time, or one that its check refused.

    The limits recover the variance of the logarithm of each median from its own interval and add the two (the method of variance
    estimates recovery, Zou and Donner 2008), because rows keep intervals of medians and not the calls; ``caution`` widens them.
    """
    if before.ms is None or after.ms is None or {before.status, after.status} != {"ok"}:
        return None
    value = before.ms / after.ms
    if None in (before.ms_low, before.ms_high, after.ms_low, after.ms_high):
        return Ratio(value, None, None)
    wider = caution(before.rounds, after.rounds)
    down = wider * math.hypot(_log(before.ms, before.ms_low), _log(after.ms_high, after.ms))
    up = wider * math.hypot(_log(before.ms_high, before.ms), _log(after.ms, after.ms_low))
    return Ratio(value, value * math.exp(-down), value * math.exp(up))


def caution(*rounds: int | None) -> float:
    """How much wider the interval of a comparison must be than those of bootstraps over few rounds say.

    A bootstrap over n rounds is too narrow by sqrt((n - 1) / n), and the spread that it finds is itself uncertain: Student's t in the
    place of the normal, by its expansion in one over the degrees of freedom (Abramowitz and Stegun 26.7.5). 1 where rounds are unknown.
    """
    known = [count for count in rounds if count is not None and count > 1]
    if not known:
        return 1.0
    few, freedom = min(known), sum(count - 1 for count in known)
    t = Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)
    return t / Z * math.sqrt(few / (few - 1))


def _log(above: Any, below: Any) -> float:
    return math.log(above / below)


class Pair(NamedTuple):
    """The same configuration in two sets of rows."""

    before: Row
    after: Row
    ratio: Ratio | None


def machine(row: Row) -> tuple[str, int | None]:
    """The GPU; or the CPU, and how many threads were used of it."""
    return row.key[-1], row.hardware.threads if row.hardware.device == "cpu" else None


def same(row: Row) -> tuple[Any, ...]:
    """What two rows must share to be measurements of one thing: all but when, from which commit and in which file."""
    return (row.key, machine(row), row.tf32, row.weights)


def latest(rows: Iterable[Row]) -> list[Row]:
    """The last of the rows that measure the same thing, in the order in which each was first met."""
    return list({same(row): row for row in rows}.values())


def paired(before: Iterable[Row], after: Iterable[Row]) -> list[Pair]:
    """Rows of two sets that measure the same thing. Where a set has several, the last counts."""
    first, second = ({same(row): row for row in rows} for rows in (before, after))
    return [Pair(first[key], second[key], ratio(first[key], second[key])) for key in first if key in second]


class Contest(NamedTuple):
    """One model at one task on one system, in one precision, on one machine: our fastest and the fastest peer of those that took turns."""

    ours: Row | None
    peer: Row | None
    ratio: Ratio | None  # of the peer's time to ours

    @property
    def either(self) -> Row:
        """A row to read the shared fields from."""
        row = self.ours or self.peer
        assert row is not None
        return row


def contests(rows: Sequence[Row]) -> list[Contest]:
    """Head to head: the fastest configurations that passed their check; a side without one is None.

    Only rows that were measured in turns, which share the time at which they were started, meet; of several such meetings the last counts.
    """
    groups: dict[tuple[Any, ...], dict[str, list[Row]]] = {}
    for row in rows:
        if row.status == "ok" and row.ms is not None and row.task not in ("largest", "startup"):
            meetings = groups.setdefault((row.model, row.system, row.batch, row.task, row.precision, machine(row)), {})
            meetings.setdefault(row.started, []).append(row)
    return [_last([_contest(meeting) for _, meeting in sorted(meetings.items())]) for meetings in groups.values()]


def _last(meetings: Sequence[Contest]) -> Contest:
    """Of those in which both sides have a time, if there are any."""
    return ([one for one in meetings if one.ours and one.peer] or meetings)[-1]


def _contest(group: Sequence[Row]) -> Contest:
    ours, peer = (_fastest(row for row in group if (row.package == OURS) == own) for own in (True, False))
    return Contest(ours, peer, ratio(peer, ours) if ours and peer else None)


def _fastest(rows: Iterable[Row]) -> Row | None:
    return min(rows, key=lambda row: row.ms or math.inf, default=None)
