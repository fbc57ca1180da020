"""Time and memory of calls on a device."""

import gc
import hashlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch

WARM_UP = 10
MIN_CALLS, MAX_CALLS = 3, 50
ROW_VERSION = 2
T = TypeVar("T")


def wait(device: torch.device) -> None:
    """Until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one call, the device idle before and after."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return 1e3 * (time.perf_counter() - start)


def num_calls(ms: float, seconds: float) -> int:
    """How many calls of ``ms`` fill ``seconds``, within reason."""
    return min(max(int(1e3 * seconds / max(ms, 1e-3)), MIN_CALLS), MAX_CALLS)


def single_calls(call: Callable[[T], Any], prepare: Callable[[], T], device: torch.device, seconds: float) -> dict[str, float]:
    """Median and spread of single calls after warming up, in milliseconds; ``prepare`` makes the input of each, not timed."""

    def once() -> float:
        prepared = prepare()
        return timed(lambda: call(prepared), device)

    last = spent = once()
    while spent < 1e3 * seconds and spent < WARM_UP * last:
        last = once()
        spent += last
    times = sorted(once() for _ in range(num_calls(last, seconds)))
    return {"ms": statistics.median(times), "ms_p5": times[len(times) // 20], "ms_p95": times[-1 - len(times) // 20]}


def back_to_back(call: Callable[[T], Any], prepare: Callable[[], T], device: torch.device, ms: float, seconds: float) -> float:
    """Milliseconds per call of ``ms`` when the host does not wait between calls."""
    inputs = [prepare() for _ in range(num_calls(ms, seconds))]

    def all_of_them() -> None:
        for prepared in inputs:
            call(prepared)

    return timed(all_of_them, device) / len(inputs)


def start_memory(device: torch.device) -> None:
    """Give back what nothing uses, to other processes too, and forget the peak so far."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, float]:
    """GB (1e9 bytes) of tensors at the peak since ``start_memory``, a recording's own included; nothing off CUDA."""
    return {"peak_GB": torch.cuda.max_memory_allocated(device) / 1e9} if device.type == "cuda" else {}


def environment(device: torch.device) -> dict[str, Any]:
    """What a row needs to be understood later."""
    found: dict[str, Any] = {
        "row_version": ROW_VERSION,
        "device": device.type,
        "commit": commit(),
        "source": source_hash(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "driver": driver_version()}
        found |= {"triton": version("triton"), "tf32": torch.backends.cuda.matmul.allow_tf32}
    return found


def commit() -> str | None:
    """Of the checkout the package stands in; None where it is installed without one."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:
        return None


def source_hash() -> str:
    """Of the package's source files as they ran: a commit says nothing of changes on top of it."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def driver_version() -> str | None:
    """Of the NVIDIA driver; None where nvidia-smi is not there to say."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None
