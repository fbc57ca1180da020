"""What is said of many timings: the median, how far they spread, and how sure the median is."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Summary:
    """Milliseconds of a call: median, 5th and 95th percentile of all calls, and the bootstrap interval of the median (95 %), None
    where there was one round only."""

    ms: float
    ms_p5: float
    ms_p95: float
    ms_low: float | None
    ms_high: float | None

    def fields(self) -> dict[str, float | None]:
        """As a row has them."""
        return asdict(self)


def summarise(rounds: Sequence[Sequence[float]], seed: int = 0) -> Summary:
    """Of the calls of several rounds.

    The interval resamples whole rounds: calls of one round share a clock and a temperature, so that single calls are no
    independent measurements.
    """
    calls = np.concatenate([np.asarray(part, dtype=np.float64) for part in rounds])
    low, high = _interval(rounds, seed) if len(rounds) > 1 else (None, None)
    p5, p95 = np.percentile(calls, [5, 95])
    return Summary(float(np.median(calls)), float(p5), float(p95), low, high)


def _interval(rounds: Sequence[Sequence[float]], seed: int) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    drawn = random.integers(len(rounds), size=(RESAMPLES, len(rounds)))
    medians = [np.median(np.concatenate([rounds[i] for i in choice])) for choice in drawn]
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)
