"""Loads compiled kernels and starts them through the CUDA driver, on torch's current stream.

A start allocates nothing and waits for nothing, so a CUDA graph can hold it.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mosso.kernels.cuda import nvrtc

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_SHARED_CARVEOUT = 9  # CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, in percent
_SHARED_OF_MULTIPROCESSOR = 81  # CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
_RESERVED_BYTES = 1024  # of shared memory, that every block takes beside its own


@cache
def library() -> ctypes.CDLL | None:
    """The driver, or None where there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _call(function: str, *arguments: Any) -> None:
    """Call the driver; a RuntimeError says what failed and why."""
    driver = library()
    assert driver is not None, "asked for after cuda_obstacle"
    code = getattr(driver, function)(*arguments)
    if code:
        name, text = ctypes.c_char_p(), ctypes.c_char_p()
        driver.cuGetErrorName(code, ctypes.byref(name))
        driver.cuGetErrorString(code, ctypes.byref(text))
        told = [part.value.decode() for part in (name, text) if part.value]
        raise RuntimeError(f"{function} failed: {', '.join(told) or code}.")


class Kernel:
    """One function of a module, with how it is started.

    Attributes:
        threads: of a block.
        shared_bytes: dynamic shared memory of a block; what ``resident`` blocks do not need of it is left to the L1 cache.
    """

    def __init__(self, module: "Module", name: str, threads: int, shared_bytes: int, resident: int) -> None:
        self.module, self.threads, self.shared_bytes = module, threads, shared_bytes
        self.handle = ctypes.c_void_p()
        with module.current():
            _call("cuModuleGetFunction", ctypes.byref(self.handle), module.handle, name.encode())
            if shared_bytes > 48 * 1024:
                _call("cuFuncSetAttribute", self.handle, _MAX_DYNAMIC_SHARED, shared_bytes)
            most = ctypes.c_int()
            _call("cuDeviceGetAttribute", ctypes.byref(most), _SHARED_OF_MULTIPROCESSOR, module.number)
            needed = 100 * resident * (shared_bytes + _RESERVED_BYTES)
            _call("cuFuncSetAttribute", self.handle, _SHARED_CARVEOUT, min(100, -(-needed // most.value)))

    def __call__(self, grid: tuple[int, int], *arguments: Tensor | int | None) -> None:
        """Start it: tensors go as pointers (None as null) and numbers as 32-bit integers."""
        if 0 in grid:
            return
        values = [
            ctypes.c_int(argument) if isinstance(argument, int) else ctypes.c_void_p(0 if argument is None else argument.data_ptr())
            for argument in arguments
        ]
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        stream = ctypes.c_void_p(torch.cuda.current_stream(self.module.device).cuda_stream)
        with self.module.current():
            _call("cuLaunchKernel", self.handle, *grid, 1, self.threads, 1, 1, self.shared_bytes, stream, pointers, None)


class Module:
    """CUDA source compiled for a device and loaded there; stays loaded as long as the process lives."""

    def __init__(self, source: str, device: int) -> None:
        major, minor = torch.cuda.get_device_capability(device)
        image = nvrtc.cubin(source, f"sm_{major}{minor}")
        torch.cuda.init()
        # The driver counts the devices that CUDA_VISIBLE_DEVICES leaves, as torch does.
        self.device, self.number, self.context, self.handle = device, ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuDeviceGet", ctypes.byref(self.number), device)
        _call("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), self.number)
        with self.current():
            _call("cuModuleLoadData", ctypes.byref(self.handle), image)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside, torch's context of the device is current in this thread; threads of the backward pass may start with none."""
        with torch.cuda.device(self.device):
            _call("cuCtxSetCurrent", self.context)
            yield

    def kernel(self, name: str, threads: int, shared_bytes: int, resident: int) -> Kernel:
        return Kernel(self, name, threads, shared_bytes, resident)
