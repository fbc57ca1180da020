"""How dynamics are timed while they run."""

from contextlib import suppress
from typing import Any

import pytest

from mosso.bench import ours
from mosso.bench.peers import dynamics


def watched(monkeypatch: pytest.MonkeyPatch, watch: tuple[int, float, int], *blocks: tuple[int, float]) -> dict[str, Any]:
    """What a stopwatch says of blocks of steps that take so many seconds."""
    now = [0.0]
    monkeypatch.setattr(dynamics.time, "perf_counter", lambda: now[0])
    clock = dynamics.Stopwatch(*watch)
    step = 0
    with suppress(dynamics.Enough):
        for steps, seconds in blocks:
            now[0] += seconds
            step += steps
            clock.done(step)
    return clock.read()


def test_what_a_run_costs_at_its_start_is_not_in_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings in the first three blocks, which get longer, then a millisecond a step; at 61 ms the time is over."""
    blocks = ((4, 3.0), (9, 1.0), (19, 0.2), (39, 0.039), (60, 0.060), (20, 0.020), (40, 0.040), (40, 0.040), (40, 0.040))
    found = watched(monkeypatch, (5000, 0.061, 10), *blocks)
    assert found == {"ms": [pytest.approx(1.0)], "steps": 100, "warm_up": 131}


def test_slow_blocks_after_the_start_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watched(monkeypatch, (30, 60.0, 10), (10, 0.1), (10, 0.1), (10, 0.1), (10, 0.7), (10, 0.1), (10, 0.1))
    assert found == {"ms": [pytest.approx(30.0)], "steps": 30, "warm_up": 20}


def test_warm_up_ends_with_the_time_of_slow_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watched(monkeypatch, (1000, 5.0, 100), *((1, 1.0),) * 50)
    assert found == {"ms": [pytest.approx(1000.0)], "steps": 5, "warm_up": 5}


def test_a_run_that_never_settles_is_timed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = watched(monkeypatch, (1000, 50.0, 1), (10, 10.0), (10, 5.0))
    assert found == {"ms": [pytest.approx(750.0)], "steps": 20, "warm_up": 0}
    with pytest.raises(ValueError, match="without a step"):
        watched(monkeypatch, (1000, 50.0, 1))


def test_all_sides_are_the_same_kind_of_dynamics() -> None:
    """mosso's adapter imports nothing of the others."""
    for name in ("TEMPERATURE", "FRICTION", "LOG_EVERY", "WRITE_EVERY"):
        assert getattr(ours, name) == getattr(dynamics, name)
