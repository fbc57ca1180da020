"""The machine a row is measured on, and how warm it is; None is what it does not tell."""

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mosso.bench.rows import Hardware


@dataclass(frozen=True)
class Sensors:
    """Clock of the GPU's multiprocessors (MHz) and its temperature (Celsius)."""

    clock_MHz: float
    temperature_C: float


def hardware(device: Literal["cpu", "cuda"], threads: int | None = None) -> Hardware:
    """The machine; ``threads`` are those a competitor computes with."""
    asked = _ask_gpu("name", "driver_version") if device == "cuda" else None
    gpu, driver = asked or (None, None)
    return Hardware(device=device, gpu=gpu, driver=driver, cpu=cpu_name(), threads=threads)


def sensors(device: str) -> Sensors | None:
    """Clock and temperature now; None off CUDA and where nvidia-smi does not say."""
    asked = _ask_gpu("clocks.sm", "temperature.gpu") if device == "cuda" else None
    try:
        return Sensors(*map(float, asked)) if asked else None
    except ValueError:  # "[N/A]"
        return None


def memory_GB(device: str) -> float | None:
    """Memory in GB (1e9 bytes) that competitors can have together: of the GPU, or what the system says is available."""
    if device == "cuda":
        asked = _ask_gpu("memory.total")
        return float(asked[0]) * 2**20 / 1e9 if asked else None
    return _number_after(Path("/proc/meminfo"), "MemAvailable:", 1024 / 1e9)


def cpu_name() -> str | None:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), None) or platform.processor() or platform.machine() or None


def _ask_gpu(*fields: str) -> list[str] | None:
    """What nvidia-smi says of the first GPU that competitors see."""
    which = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"
    command = ["nvidia-smi", f"--id={which}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30.0).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    found = [part.strip() for part in lines[0].split(",")] if lines else []
    return found if len(found) == len(fields) else None


def _number_after(path: Path, word: str, unit: float) -> float | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) * unit for line in lines if line.startswith(word)), None)
