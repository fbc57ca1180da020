"""Kernels that are brought to the device while the one before still runs (programmatic dependent launch, Hopper and later).

What a kernel costs beyond its work is a microsecond or two: the last programs of the one before end, then it is started. A
captured step of fifty kernels spends a tenth of its time so in small systems. Here a kernel is started once all programs of the
one before are on the device, and waits there, in ``await_inputs``, until those are done and what they wrote can be seen.

Since every kernel waits first of all, one that has begun knows that all before it are done, not only the last one.
"""

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from mosso.kernels.fused import INTERPRETED

_DEVICES = range(0 if INTERPRETED or torch.version.cuda is None or not torch.cuda.is_available() else torch.cuda.device_count())
OVERLAPS = tl.constexpr(len(_DEVICES) > 0 and all(torch.cuda.get_device_capability(i)[0] >= 9 for i in _DEVICES))

EARLY = tl.constexpr(1)


@triton.jit
def await_inputs():  # type: ignore[no-untyped-def]
    """The first line of every kernel that ``launch`` starts."""
    if OVERLAPS:
        gdc_wait()
        if EARLY == 1:
            gdc_launch_dependents()
        if EARLY > 1:
            if tl.num_programs(0) * tl.num_programs(1) * tl.num_programs(2) < EARLY:
                gdc_launch_dependents()


@lru_cache(maxsize=1024)
def may_overlap(kernel: Any) -> bool:
    """Whether a kernel can be started before the one before it has ended."""
    assert "    await_inputs()\n" in kernel.src, f"{kernel.__name__} does not await its inputs"
    return bool(OVERLAPS.value)
