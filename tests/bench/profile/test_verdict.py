"""The rule of the verdict, on numbers made up for each of its branches."""

from dataclasses import replace

import pytest
import torch

from mosso.bench.limits import Cost
from mosso.bench.profile.verdict import Times, Work, verdict
from mosso.bench.rates import Rates, measured

BUSY = Times(wall=10.0, busy=0.9, issuing=2.0, own=1.0, launches=40)
IDLE = replace(BUSY, busy=0.1)
RATES = Rates(arithmetic=1e12, memory=1e11)


def work(arithmetic_ms: float, memory_ms: float) -> Work:
    return Work.of([Cost("op", "forward", 1e9 * arithmetic_ms, 1e8 * memory_ms)], RATES)


@pytest.mark.parametrize(
    ("times", "counted", "label", "words"),
    [
        (IDLE, work(5, 1), "launch-bound", ("idle 90% of the time", "40 launches")),
        (replace(IDLE, own=2.5), work(5, 1), "host-bound", ("idle 90% of the time",)),
        (replace(IDLE, launches=None), None, "host-bound", ("90% of the time is spent outside of ops",)),
        (BUSY, work(6, 3), "compute-bound", ("busy 90% of the time", "arithmetic would take 60%", "traffic 30%")),
        (BUSY, work(3, 6), "bandwidth-bound", ("traffic 60%",)),
        (BUSY, work(2.4, 0.3), "device-bound", ("far from either limit", "arithmetic would take 24%")),
        (BUSY, None, "device-bound", ("not counted",)),
        (replace(BUSY, launches=None), work(6, 3), "compute-bound", ("ops run 90%",)),
        (BUSY, work(6, 0.02), "compute-bound", ("traffic less than 1%",)),
    ],
)
def test_each_branch(times: Times, counted: Work | None, label: str, words: tuple[str, ...]) -> None:
    said = verdict(times, counted)
    assert said.startswith(f"{label}: ")
    assert "\n" not in said
    assert all(word in said for word in words)


def test_the_least_time_is_a_sum_over_ops() -> None:
    """Ops that follow each other cannot share their limits: one is bound by arithmetic, the other by memory."""
    costs = [Cost("a", "forward", 2e9, 1e8), Cost("b", "forward", 1e9, 3e8)]
    found = Work.of(costs, RATES)
    assert (found.flops, found.bytes) == (3e9, 4e8)
    assert (found.arithmetic_ms, found.memory_ms, found.least_ms) == (pytest.approx(3), pytest.approx(4), pytest.approx(2 + 3))


def test_rates_of_an_unknown_device_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mosso.bench.rates.SECONDS", 0.0)
    found = measured(torch.device("cpu"), torch.float32)
    assert 1e8 < found.arithmetic < 1e15
    assert 1e8 < found.memory < 1e14
