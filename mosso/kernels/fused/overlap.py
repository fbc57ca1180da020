"""Kernels that are brought to the device while the one before ends (programmatic dependent launch, Hopper and later).

What a kernel costs beyond its work is a microsecond or two between the end of the one before and its own first instruction. A captured
step of fifty kernels spends up to a tenth of its time so in small systems. Here the start of a kernel does not wait until what the one
before wrote can be seen: the kernel itself waits for that, in ``await_inputs``.

Since every kernel waits first of all, one that has begun knows that all before it are done, not only the last one. Starting even
earlier, when the last programs of the one before are on their way, is slower: they spread over fewer multiprocessors (docs/log.md).
"""

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait


@triton.jit
def await_inputs(OVERLAPS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The first line of every kernel that ``launch`` starts."""
    if OVERLAPS:
        gdc_wait()


@lru_cache(maxsize=1024)
def overlapping(kernel: Any, device: torch.device) -> dict[str, bool]:
    """Options for the launch of a kernel, which has to wait for its inputs itself.

    Not for compilers: that of torch 2.11 takes a kernel with inline assembly, as the wait is, for one that may change its inputs.
    """
    overlaps = torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (9, 0)
    return {"OVERLAPS": True, "launch_pdl": True} if overlaps else {}
