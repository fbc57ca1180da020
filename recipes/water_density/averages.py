"""Averages of correlated series with their errors: one series per independent replica, of any length, all sampled at the same interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Series = list[np.ndarray]  # (T,) each

WINDOW = 5.0  # the autocorrelation is summed up to this many correlation times (Sokal's rule)


@dataclass(frozen=True)
class Average:
    """A mean and what is known of it.

    Attributes:
        mean: over all samples of all replicas.
        error: its standard error, from the autocorrelation.
        error_from_replicas: the same from the scatter of the replicas' means alone, for comparison; NaN for one replica.
        error_from_blocks: the same from the scatter of blocks of twenty correlation times or more; NaN for fewer than two.
        deviation: standard deviation of the samples.
        inefficiency: how many samples are worth one independent one.
        samples: how many there are.
    """

    mean: float
    error: float
    error_from_replicas: float
    error_from_blocks: float
    deviation: float
    inefficiency: float
    samples: int


def average(series: Series) -> Average:
    """The mean of all samples; they weigh the same, so that longer replicas count for more."""
    samples = np.concatenate(series)
    mean, deviation, inefficiency = samples.mean(), samples.std(), statistical_inefficiency(series)
    error = deviation * np.sqrt(inefficiency / len(samples))
    length = int(np.ceil(10.0 * inefficiency))  # the inefficiency is twice the correlation time
    blocks = [block for one in series for block in np.split(one[: len(one) // length * length], max(1, len(one) // length)) if len(block)]
    return Average(mean, error, _scatter(series, mean), _scatter(blocks, mean), deviation, inefficiency, len(samples))


def _scatter(parts: Series, mean: float) -> float:
    """Standard error of the mean of parts that are independent, weighed by their lengths; NaN for fewer than two."""
    if len(parts) < 2:
        return float("nan")
    weights = np.array([len(part) for part in parts]) / sum(map(len, parts))
    means = np.array([part.mean() for part in parts])
    return float(np.sqrt((weights**2 * (means - mean) ** 2).sum() * len(parts) / (len(parts) - 1)))


def statistical_inefficiency(series: Series) -> float:
    """1 + 2 sum_k rho(k), the autocorrelation rho taken about the mean of all replicas, so that a replica that is stuck
    counts as correlated."""
    mean = np.concatenate(series).mean()
    longest = max(map(len, series))
    products, pairs = np.zeros(longest), np.zeros(longest)
    for one in series:
        products[: len(one)] += autocorrelation(one - mean)
        pairs[: len(one)] += np.arange(len(one), 0, -1)
    if products[0] == 0.0:
        raise ValueError("The series is constant: there is nothing to average.")
    rho = products / pairs * pairs[0] / products[0]
    inefficiencies = 1.0 + 2.0 * np.cumsum(rho[1:])
    enough = np.arange(1, longest) >= WINDOW * 0.5 * inefficiencies
    return float(max(1.0, inefficiencies[np.argmax(enough)] if enough.any() else inefficiencies[-1]))


def autocorrelation(deviations: np.ndarray) -> np.ndarray:
    """(T,) sum over t of d(t) d(t + k), for every lag k."""
    spectrum = np.fft.rfft(deviations, 2 * len(deviations))
    return np.fft.irfft(np.abs(spectrum) ** 2)[: len(deviations)]


def settled(one: np.ndarray, first: int) -> np.ndarray:
    """What is left without equilibration: the first ``first`` samples or the first fifth, whichever is more."""
    return one[max(first, len(one) // 5) :]


def relative_variance(series: Series) -> tuple[float, float]:
    """<d^2> / <x>, and its standard error from leaving out one replica at a time (NaN for one replica)."""

    def value(some: Series) -> float:
        samples = np.concatenate(some)
        return float(samples.var() / samples.mean())

    if len(series) < 2:
        return value(series), float("nan")
    without = np.array([value(series[:r] + series[r + 1 :]) for r in range(len(series))])
    spread = np.sqrt((len(series) - 1) * without.var())
    return value(series), float(spread)


def sigmas(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The difference of two values in units of its standard error, given (value, error) each."""
    return (a[0] - b[0]) / float(np.hypot(a[1], b[1]))
