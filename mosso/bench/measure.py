"""Time of calls on a device, and what they were made with."""

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


def single_calls(call: Callable[[T], Any], prepare: Callable[[], T], device: torch.device, seconds: float) -> float:
    """Median milliseconds of single calls after warming up; ``prepare`` makes the input of each, not timed."""

    def once() -> float:
        prepared = prepare()
        return timed(lambda: call(prepared), device)

    last = spent = once()
    while spent < 1e3 * seconds and spent < WARM_UP * last:
        last = once()
        spent += last
    return statistics.median(once() for _ in range(num_calls(last, seconds)))


def versions(device: torch.device) -> dict[str, str]:
    """Of what computes on a device."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if device.type == "cuda":
        found |= {"cuda": str(torch.version.cuda), "triton": version("triton")}
    return found


def commit() -> str | None:
    """Of the checkout the package stands in, with "-dirty" where files are not as it has them; None where it is installed without one."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
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
