"""Medians, percentiles and the bootstrap, against numpy and what can be counted by hand."""

import numpy as np
import pytest

from mosso.bench import statistics
from mosso.bench.statistics import summarise


def test_median_and_percentiles_are_those_of_all_calls() -> None:
    random = np.random.default_rng(3)
    rounds = [random.gamma(2.0, size=size).tolist() for size in (20, 20, 13)]
    found, calls = summarise(rounds), np.concatenate(rounds)
    assert found.ms == pytest.approx(np.median(calls))
    assert (found.ms_p5, found.ms_p95) == pytest.approx(tuple(np.percentile(calls, [5, 95])))
    assert found.ms_low < found.ms < found.ms_high


def test_interval_of_few_rounds_counted_by_hand() -> None:
    """Of 7 rounds of one call, the median of a resample is the smallest with probability 0.010 and at most the second with 0.108."""
    found = summarise([[float(value)] for value in (1, 2, 3, 4, 5, 6, 7)])
    assert (found.ms_low, found.ms, found.ms_high) == (2.0, 4.0, 6.0)
    found = summarise([[1.0], [3.0]])  # 1, 2, 2 or 3
    assert (found.ms_low, found.ms, found.ms_high) == (1.0, 2.0, 3.0)


def test_calls_of_one_round_are_no_independent_measurements() -> None:
    random = np.random.default_rng(0)
    clocks = (1.0, 1.1, 1.2, 1.3, 1.4)
    rounds = [(clock + 1e-3 * random.standard_normal(50)).tolist() for clock in clocks]
    found = summarise(rounds)
    assert found.ms_high - found.ms_low > 0.1, "not a tenth of that, as 250 single calls would say"


def test_one_round_has_no_interval() -> None:
    found = summarise([[1.0, 2.0, 9.0]])
    assert (found.ms, found.ms_low, found.ms_high) == (2.0, None, None)
    assert found.fields()["ms_low"] is None


def test_same_numbers_give_the_same_interval() -> None:
    rounds = [[1.0, 1.5], [2.0, 2.1], [1.2, 1.1]]
    assert summarise(rounds) == summarise(rounds)
    assert summarise([[2.0, 2.0]] * 3) == statistics.Summary(2.0, 2.0, 2.0, 2.0, 2.0)


def test_the_interval_holds_the_median_about_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    random, hits, trials = np.random.default_rng(1), 0, 150
    for _ in range(trials):
        found = summarise(random.exponential(size=(11, 3)).tolist())
        hits += found.ms_low <= np.log(2.0) <= found.ms_high
    assert 0.88 <= hits / trials <= 1.0
