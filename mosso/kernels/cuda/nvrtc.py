"""Compiles CUDA C++ at run time with NVRTC, the compiler that comes with torch builds for CUDA, and keeps what it made.

Cubins lie under ``MOSSO_CACHE`` (else ``~/.cache/mosso``), named by the source, the architecture and the version of the compiler.
"""

import ctypes
import hashlib
import os
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

OPTIONS = ("--std=c++17",)


def _candidates() -> list[str]:
    """Names and paths of the library: as the loader knows it, in the wheels beside torch, in an installed toolkit."""
    major = torch.version.cuda.partition(".")[0] if torch.version.cuda else "*"
    wheels = find_spec("nvidia")
    folders = [Path(place) for place in (wheels.submodule_search_locations or [] if wheels else [])]
    toolkit = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    paths = [path for folder in folders for path in folder.glob(f"*/lib/libnvrtc.so.{major}")]
    paths += Path(toolkit).glob(f"lib64/libnvrtc.so.{major}") if toolkit else []
    return [f"libnvrtc.so.{major}", *[str(path) for path in sorted(paths)]]


@cache
def library() -> ctypes.CDLL | None:
    """NVRTC, or None where there is none."""
    for name in _candidates():
        try:
            # It looks for this one while it compiles, not necessarily beside itself.
            for builtins in Path(name).parent.glob("libnvrtc-builtins.so.*") if "/" in name else ():
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            loaded = ctypes.CDLL(name)
        except OSError:
            continue
        loaded.nvrtcGetErrorString.restype = ctypes.c_char_p
        return loaded
    return None


def _check(nvrtc: ctypes.CDLL, code: int, what: str, log: str = "") -> None:
    if code:
        raise RuntimeError(f"{what} failed: {nvrtc.nvrtcGetErrorString(code).decode()}.{log and chr(10) + log}")


def version() -> str:
    """Of the compiler, as ``13.0``."""
    nvrtc = library()
    assert nvrtc is not None
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(nvrtc, nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    return f"{major.value}.{minor.value}"


def compile_cubin(source: str, architecture: str) -> bytes:
    """The binary of CUDA C++ ``source`` for ``architecture`` (``sm_90``), whose kernels are ``extern "C"``.

    Raises:
        RuntimeError: there is no NVRTC, or the source does not compile; with the messages of the compiler.
    """
    nvrtc = library()
    if nvrtc is None:
        raise RuntimeError("NVRTC was not found: install a torch build for CUDA, or set CUDA_HOME to a CUDA toolkit.")
    program = ctypes.c_void_p()
    created = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"mosso.cu", 0, None, None)
    _check(nvrtc, created, "nvrtcCreateProgram")
    try:
        options = [option.encode() for option in (f"--gpu-architecture={architecture}", *OPTIONS)]
        code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        _check(nvrtc, code, f"Compiling for {architecture}", _read(nvrtc, program, "ProgramLog").rstrip(b"\0").decode() if code else "")
        return _read(nvrtc, program, "CUBIN")
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _read(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """What nvrtcGet<what> gives."""
    size = ctypes.c_size_t()
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), f"nvrtcGet{what}Size")
    text = ctypes.create_string_buffer(max(size.value, 1))
    _check(nvrtc, getattr(nvrtc, f"nvrtcGet{what}")(program, text), f"nvrtcGet{what}")
    return text.raw[: size.value]


def cubin(source: str, architecture: str) -> bytes:
    """``compile_cubin``, from the disk where that has been done before."""
    key = hashlib.sha256("\0".join([source, architecture, version(), *OPTIONS]).encode()).hexdigest()
    folder = Path(os.environ.get("MOSSO_CACHE") or Path.home() / ".cache" / "mosso") / "cubin"
    path = folder / f"{key}.{architecture}.cubin"
    if path.exists():
        return path.read_bytes()
    binary = compile_cubin(source, architecture)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(binary)
        os.replace(file.name, path)
    except OSError:
        pass  # a cache that cannot be written costs time, not the result
    return binary
