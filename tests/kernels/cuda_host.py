"""CUDA kernels without a device: compiled for the host (cuda_on_host.h) and started through a driver of the same names."""

import ctypes
import hashlib
import re
import shutil
import subprocess
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mosso.kernels import dispatch
from mosso.kernels.cuda import driver, nvrtc

COMPILERS = [shutil.which(name) for name in ("g++", "gcc")]
_HERE = Path(__file__).parent
_PRIMITIVES = (Path(driver.__file__).parent / "primitives.cuh").read_text()


@cache
def _driver(folder: Path) -> ctypes.CDLL:
    path = folder / "driver.so"
    subprocess.run([COMPILERS[1], "-O1", "-shared", "-fPIC", _HERE / "cuda_driver_on_host.c", "-o", path, "-ldl"], check=True)
    return ctypes.CDLL(str(path))


@cache
def _library(source: str, folder: Path) -> Path:
    """A library of the kernels in ``source``, with the primitives of the device replaced by those of the host."""
    assert source.startswith(_PRIMITIVES)
    kernels = re.findall(r'extern "C" __global__ __launch_bounds__\([^)]*\) void (\w+)\(', source)
    text = '#include "cuda_on_host.h"\n' + source.removeprefix(_PRIMITIVES) + "".join(f"ON_HOST({name})\n" for name in kernels)
    path = folder / hashlib.sha256(text.encode()).hexdigest()
    path.with_suffix(".cpp").write_text(text)
    command = [COMPILERS[0], "-O1", "-std=c++17", "-ffp-contract=off", "-shared", "-fPIC", "-w", f"-I{_HERE}"]
    subprocess.run([*command, path.with_suffix(".cpp"), "-o", path.with_suffix(".so")], check=True)
    return path.with_suffix(".so")


def use(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From here on kernels in CUDA C++ take tensors of the CPU."""
    if None in COMPILERS:
        pytest.skip("no compiler for the host")
    monkeypatch.setattr(dispatch, "cuda_obstacle", lambda *tensors: None)
    monkeypatch.setattr(driver, "library", lambda: _driver(folder))
    monkeypatch.setattr(nvrtc, "cubin", lambda source, architecture: bytes(_library(source, folder)))
    for name, result in {
        "init": None,
        "current_device": 0,
        "device": nullcontext(),
        "get_device_capability": (9, 0),
        "current_stream": SimpleNamespace(cuda_stream=7),
        "get_device_properties": SimpleNamespace(multi_processor_count=3),
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, result=result: result)
