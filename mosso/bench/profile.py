"""Which kernels an evaluation spends its time in, and how close each op comes to the least it can take."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mosso.bench.limits import H200, Cost, Rates
from mosso.bench.report import markdown, number

CALLS = 5

# Op -> how the ops of limits.py that it covers begin, and what the names of its kernels contain.
OPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "edge features": (("edge features",), ("edge_features", "_vectors", "_assemble")),
    "radial moments": (("radial moments",), ("_moments",)),
    "convolution": (("convolution",), ("convolution", "sum_outgoing", "add_outgoing", "sum_parts", "zero_padding")),
    "contraction": (("contraction",), ("contraction",)),
    "linear": (("first mix", "up", "mix", "residual", "product"), ("_mix", "gemm", "cutlass", "gemv", "splitK")),
}


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


def share_table(kernels: list[dict[str, Any]], costs: list[Cost], rates: Rates = H200) -> str:
    """Markdown: per op the microseconds measured, the least possible, and the fraction of the limit reached."""
    lines = []
    left = list(kernels)
    for op, (counted, named) in OPS.items():
        mine = [kernel for kernel in left if any(part in kernel["kernel"] for part in named)]
        left = [kernel for kernel in left if kernel not in mine]
        measured = sum(kernel["us"] for kernel in mine)
        least = sum(cost.microseconds(rates) for cost in costs if cost.op.startswith(counted))
        lines.append((op, number(measured), number(least), f"{least / measured:.0%}" if measured else "-"))
    lines.append(("everything else", number(sum(kernel["us"] for kernel in left)), "", ""))
    return markdown(("op", "us", "least us", "of the limit"), lines)
