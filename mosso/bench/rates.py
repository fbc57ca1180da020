"""What a device can do per second: from a table of known ones, or measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mosso.bench import measure


@dataclass(frozen=True)
class Rates:
    """Operations of floating point (a multiply-add is two of them), and bytes from and to memory, per second."""

    arithmetic: float
    memory: float


H200 = Rates(arithmetic=67e12, memory=4.2e12)
# GPU and precision policy -> rates: float32 without tensor cores, float64 with them, which happen to be equal on an H200.
RATES = {("NVIDIA H200", "fp32"): H200, ("NVIDIA H200", "fp64"): H200}

SECONDS = 0.2  # of each measurement


def measured(device: torch.device, dtype: torch.dtype) -> Rates:
    """What a large matrix product and a large copy reach here: less than the limit, but telling arithmetic from traffic."""
    side, length = (1024, 2**25) if device.type == "cpu" else (8192, 2**28)
    square = torch.ones(side, side, device=device, dtype=dtype)
    line = torch.zeros(length, device=device, dtype=dtype)
    target = torch.empty_like(line)
    return Rates(
        arithmetic=2.0 * side**3 / _least_seconds(lambda: square @ square, device),
        memory=2.0 * line.nbytes / _least_seconds(lambda: target.copy_(line), device),
    )


def _least_seconds(call: Callable[[], Any], device: torch.device) -> float:
    measure.timed(call, device)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        best = min(best, 1e-3 * measure.timed(call, device))
    return best if best < float("inf") else 1e-3 * measure.timed(call, device)
