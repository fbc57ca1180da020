"""Ratios of times, and which of them are more than chance."""

from typing import Any

import numpy as np
import pytest
from bench.page.made_up import row, without_a_time

from mosso.bench import statistics
from mosso.bench.compare import caution, contests, latest, machine, paired, ratio
from mosso.bench.rows import Hardware


def test_a_ratio_and_its_interval() -> None:
    found = ratio(row(ms=4.0, ms_low=3.6, ms_high=4.4, rounds=None), row(ms=2.0, ms_low=2.0, ms_high=2.0, rounds=None))
    assert found is not None
    assert found.value == 2.0
    assert (found.low, found.high) == (pytest.approx(1.8), pytest.approx(2.2))
    assert found.verdict == "faster"


@pytest.mark.parametrize(("after", "verdict"), [(0.8, "faster"), (1.0, "no difference"), (1.02, "no difference"), (1.3, "slower")])
def test_verdicts(after: float, verdict: str) -> None:
    found = ratio(row(ms=1.0, ms_low=0.98, ms_high=1.02), row(ms=after, ms_low=0.98 * after, ms_high=1.02 * after))
    assert found is not None
    assert found.verdict == verdict


def test_without_intervals_or_times() -> None:
    assert ratio(row(), row(status="refused", reason="wrong")) is None
    assert ratio(without_a_time(row(), "error", "crash"), row()) is None
    found = ratio(row(), row(ms_low=None, ms_high=None))
    assert found is not None
    assert found.verdict == "no interval"


@pytest.mark.parametrize(("rounds", "t"), [(3, 2.776), (5, 2.306), (11, 2.086)])
def test_few_rounds_widen_the_interval(rounds: int, t: float) -> None:
    assert caution(rounds, rounds) == pytest.approx(t / 1.96 * (rounds / (rounds - 1)) ** 0.5, rel=0.02)
    assert caution(None, None) == 1.0


@pytest.mark.parametrize("rounds", [3, 5])
def test_equals_are_rarely_called_different(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    random = np.random.default_rng(0)

    def measured() -> dict[str, Any]:
        shifts = 0.01 * random.normal(size=(rounds, 1))
        calls = 1.0 + shifts + 0.01 * random.normal(size=(rounds, 20))
        return statistics.summarise([list(some) for some in calls]).fields() | {"rounds": rounds}

    found = [ratio(row(**measured()), row(**measured())) for _ in range(100)]
    different = sum(one is not None and one.verdict in ("faster", "slower") for one in found)
    assert different <= 10


def test_pairs_are_of_the_same_thing() -> None:
    before, after = row(ms=2.0, commit="old"), row(ms=1.0, commit="new")
    others = [row(tf32=True), row(batch=16), row(weights="official"), row(precision="fp64"), row(system="C8"), row(backend="eager")]
    pairs = paired([before, *others[:3]], [row(ms=9.0), after, *others[3:]])
    assert [(pair.before, pair.after) for pair in pairs] == [(before, after)]


def test_threads_of_a_cpu_count_and_those_of_a_gpu_do_not() -> None:
    two, four = (row(hardware=Hardware(device="cpu", cpu="c", threads=n)) for n in (2, 4))
    assert machine(two) == ("c", 2)
    assert paired([two], [four]) == []
    on_gpu = [row(hardware=Hardware(device="cuda", gpu="g", threads=n)) for n in (2, 4)]
    assert len(paired(on_gpu[:1], on_gpu[1:])) == 1


def test_the_latest_measurement_counts() -> None:
    first, other, last = row(ms=1.0), row(system="C8"), row(ms=2.0)
    assert latest([first, other, last]) == [last, other]


def test_the_fastest_that_passed_compete() -> None:
    ours = [row(ms=3.0), row(ms=2.0, backend="eager")]
    peers = [row(package="alpha", ms=5.0), row(package="beta", ms=4.0), row(package="gamma", ms=1.0, status="refused", reason="wrong")]
    [contest] = contests([*ours, *peers])
    assert (contest.ours, contest.peer) == (ours[1], peers[1])
    assert contest.ratio is not None
    assert contest.ratio.value == 2.0


def test_only_those_who_took_turns_meet() -> None:
    early, late = "2026-11-20T10:00:00", "2026-11-21T10:00:00"
    ours, peer = row(ms=2.0, started=early), row(package="alpha", ms=6.0, started=early)
    again, alone = row(ms=1.0, started=late), row(package="alpha", ms=0.5, started="2026-11-22T10:00:00")
    [contest] = contests([ours, peer, again, alone])
    assert (contest.ours, contest.peer) == (ours, peer)
    [apart] = contests([again, alone])
    assert (apart.ours, apart.peer, apart.ratio) == (None, alone, None)
    [newer] = contests([ours, peer, again, row(package="alpha", ms=4.0, started=late)])
    assert newer.ratio is not None
    assert newer.ratio.value == 4.0


def test_contests_keep_conditions_apart() -> None:
    peer = row(package="alpha")
    for other in (row(precision="fp64"), row(system="C8"), row(batch=2), row(task="stress"), row(model="other")):
        found = contests([peer, other])
        assert [contest.ratio for contest in found] == [None, None]
    assert contests([row(task="startup"), row(task="largest")]) == []
