"""Which kernels an evaluation spends its time in."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mosso.bench.report import markdown, number

CALLS = 5


def kernel_times(call: Callable[[], Any]) -> list[dict[str, Any]]:
    """Kernels of one call on a CUDA device, the longest first: name, launches and microseconds per call."""
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize()
    kernels = [
        {"kernel": event.key, "launches": event.count / CALLS, "us": event.device_time_total / CALLS}
        for event in recorded.key_averages()
        if event.device_type == torch.profiler.DeviceType.CUDA
    ]
    return sorted(kernels, key=lambda kernel: -kernel["us"])


def kernel_table(kernels: list[dict[str, Any]], most: int = 25) -> str:
    """Markdown; the last line holds what is left out and the sum."""
    total = sum(kernel["us"] for kernel in kernels)
    lines = [
        (k["kernel"][:70].replace("|", "\\|"), number(k["launches"]), number(k["us"]), f"{k['us'] / total:.1%}") for k in kernels[:most]
    ]
    rest = kernels[most:]
    lines.append((f"{len(rest)} others", number(sum(k["launches"] for k in rest)), number(sum(k["us"] for k in rest)), ""))
    lines.append(("all", number(sum(k["launches"] for k in kernels)), number(total), ""))
    return markdown(("kernel", "launches", "us", "share"), lines)
