"""The process a competitor runs in: it loads one adapter and does what it is told. Everyone is timed by this one loop.

    python serve.py ADAPTER.py

Stands alone (standard library, numpy, torch, and ase for dynamics through ASE), because the interpreter of every competitor
runs it. Requests and replies are JSON objects, one a line, on stdin and stdout; what packages print goes to stderr. A request
names what to ``do`` and holds the arguments of that function below; a reply holds what the function returns, or ``error`` and
its ``kind``: ``memory`` when the device ran out, ``unsupported`` when the package cannot do it at all, else ``failure``.

An adapter is a file with a class ``Adapter``; peers/README.md says what it must offer.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

# How far every coordinate moves between calls, Angstrom: new numbers for everyone, the same neighbours.
STEP = 1e-4


class Structures(NamedTuple):
    """A batch: (N,) atomic numbers, (N, 3) positions in Angstrom, (N,) the system of each atom (ascending), (B, 3, 3) cells in
    rows, (B, 3) periodic directions."""

    numbers: np.ndarray
    positions: np.ndarray
    system: np.ndarray
    cells: np.ndarray
    pbc: np.ndarray

    @staticmethod
    def read(path: str) -> Structures:
        with np.load(path) as arrays:
            return Structures(*(arrays[name] for name in Structures._fields))

    def split(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Numbers, positions, cell and pbc of each system."""
        parts = np.flatnonzero(np.diff(self.system)) + 1
        return list(zip(np.split(self.numbers, parts), np.split(self.positions, parts), self.cells, self.pbc, strict=True))

    def atoms(self) -> list[Any]:
        """ASE's form of each system."""
        from ase import Atoms

        return [Atoms(numbers, positions, cell=cell, pbc=pbc) for numbers, positions, cell, pbc in self.split()]


class Server:
    """One adapter, what it has loaded, and the atoms it was given."""

    def __init__(self, adapter_class: Any) -> None:
        self._class = adapter_class
        self._adapter: Any = None
        self._structures: Structures | None = None
        self._random = np.random.default_rng(0)

    def describe(self) -> dict[str, Any]:
        """Versions of the packages that make the numbers, and of the interpreter."""
        import torch

        versions = {"python": platform.python_version(), "torch": torch.__version__}
        for package in self._class.packages:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        return {"versions": versions, "threads": torch.get_num_threads(), "cuda": torch.version.cuda}

    def load(self, **arguments: Any) -> dict[str, Any]:
        """A model, as ``Adapter`` takes it; what was loaded before is forgotten. Replies its facts and the seconds it took."""
        self._adapter = self._structures = None
        gc.collect()
        start = time.perf_counter()
        self._adapter = self._class(**arguments)
        self._wait()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tf32": _rounds_to_tf32() if self._adapter.device == "cuda" else None, **self._adapter.facts}

    def write_weights(self, out: str) -> dict[str, Any]:
        """The loaded weights in the package's own file format, for another package to read."""
        self._need("write_weights")(out)
        return {}

    def prepare(self, inputs: str, stress: bool) -> dict[str, Any]:
        """Atoms from an npz of ``Structures``, with their edges; replies the numbers of both, and the counted work of a call."""
        self._structures = Structures.read(inputs)
        edges = self._adapter.prepare(self._structures, stress)
        self._wait()
        work = self._adapter.work() if hasattr(self._adapter, "work") else None
        return {"atoms": len(self._structures.numbers), "edges": edges, "work": work}

    def answer(self, out: str, with_list: bool = False, positions: str | None = None) -> dict[str, Any]:
        """Energies, forces and perhaps stress of the atoms as given, or elsewhere (``positions``: npy), to an npz; the seconds it took."""
        self._adapter.place(self._given().positions if positions is None else np.load(positions))
        start = time.perf_counter()
        output = self._call(with_list)()
        self._wait()
        seconds = time.perf_counter() - start
        arrays: dict[str, Any] = {name: np.asarray(value, dtype=np.float64) for name, value in self._adapter.answer(output).items()}
        np.savez(out, **arrays)
        return {"seconds": seconds}

    def measure(self, calls: int, warm_up: int = 0, what: str = "evaluation") -> dict[str, Any]:
        """Milliseconds of each of ``calls`` calls on atoms that have moved, after ``warm_up`` more that are not counted.

        ``what``: ``evaluation`` (edges given), ``list`` (the search alone), ``both``.
        """
        call = self._need("search") if what == "list" else self._call(what == "both")
        return {"ms": [self._once(call) for _ in range(warm_up + calls)][warm_up:]}

    def memory(self, with_list: bool = False) -> dict[str, Any]:
        """GB (1e9 bytes) at the peak of one more call, weights and all that is kept from before included."""
        import torch

        gc.collect()
        call = self._call(with_list)
        if self._adapter.device == "cuda":
            torch.cuda.empty_cache()
            # What CUDA graphs work in is reserved but, between replays and during them, counted as free.
            recordings = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self._once(call)
            return {"peak_GB": (torch.cuda.max_memory_allocated() + recordings) / 1e9, "memory_of": "device"}
        _reset_peak_of_process()
        self._once(call)
        return {"peak_GB": _peak_of_process(), "memory_of": "process"}

    def dynamics(self, steps: int, seconds: float, engine: str, timestep: float, warm_up: int = 0) -> dict[str, Any]:
        """Milliseconds of a step (of ``timestep`` fs) of constant-temperature dynamics, neighbour lists, log and trajectory included;
        what a run costs at its start is not.

        ``engine``: ``own``, the package's best; ``ase``, its calculator under ASE's Langevin dynamics. ``Stopwatch`` in dynamics.py says
        what the other arguments mean.
        """
        with ExitStack() as files:
            if engine == "ase":
                (atoms,) = self._given().atoms()
                atoms.calc = self._need("calculator")()
                run = _DYNAMICS.of_ase(atoms, timestep, files)
            else:
                run = self._own_dynamics(timestep)
            self._wait()
            return _DYNAMICS.timed(run, steps, seconds, warm_up)

    def release(self) -> dict[str, Any]:
        """Forget the atoms and give unused memory back; the model stays."""
        self._structures = None
        if self._adapter is not None:
            self._adapter.release()
        gc.collect()
        if self._adapter is not None and self._adapter.device == "cuda":
            import torch

            torch.cuda.empty_cache()
        return {}

    def _given(self) -> Structures:
        if self._structures is None:
            raise ValueError("Nothing was prepared.")
        return self._structures

    def _call(self, with_list: bool) -> Callable[[], Any]:
        evaluate: Callable[[], Any] = self._need("evaluate")
        if self._adapter.facts.get("list_inside", False):
            if not with_list:
                raise NotImplementedError("this package searches for neighbours inside every evaluation")
            return evaluate
        if not with_list:
            return evaluate
        together: Callable[[], Any] | None = getattr(self._adapter, "search_and_evaluate", None)
        if together is not None:
            return together
        search: Callable[[], Any] = self._need("search")

        def both() -> Any:
            search()
            return evaluate()

        return both

    def _need(self, name: str) -> Any:
        method = getattr(self._adapter, name, None)
        if method is None:
            raise NotImplementedError(f"this package offers no {name}")
        return method

    def _once(self, call: Callable[[], Any]) -> float:
        positions = self._given().positions
        self._adapter.place(positions + STEP * self._random.standard_normal(positions.shape))
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return 1e3 * (time.perf_counter() - start)

    def _wait(self) -> None:
        if self._adapter is not None and self._adapter.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def _own_dynamics(self, timestep: float) -> Any:
        """The engine of the package, else TorchSim where the package has a model for that."""
        if hasattr(self._adapter, "dynamics") or not hasattr(self._adapter, "torch_sim_model"):
            return self._need("dynamics")(self._given(), timestep)
        if importlib.util.find_spec("torch_sim") is None:
            raise NotImplementedError("the package has no engine of its own, and TorchSim is not installed")
        return _DYNAMICS.of_torch_sim(self._adapter.torch_sim_model(), self._given().atoms(), timestep, self._wait)


def _rounds_to_tf32() -> bool:
    """Whether products of float32 matrices may be rounded; the older flag cannot be read once the newer one was set."""
    import torch

    matmul = torch.backends.cuda.matmul
    return bool(matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32)


def _reset_peak_of_process() -> None:
    """The kernel forgets the largest resident size so far; where it cannot, the peak is that since the start."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_of_process() -> float:
    """Largest resident size in GB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024 / 1e9
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _kind(error: BaseException) -> str:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower():
        return "memory"
    return "unsupported" if isinstance(error, NotImplementedError) else "failure"


def _adapter_class(path: str) -> Any:
    """The ``Adapter`` of a file. The folder of this script is taken from the search path: files there are named like packages."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != here]
    return _script("adapter", path).Adapter


def _script(name: str, path: str | Path) -> Any:
    """A file as a module of that name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_DYNAMICS = _script("timed_dynamics", Path(__file__).with_name("dynamics.py"))  # which lies beside, but not on a search path


def _replies() -> TextIO:
    """Stdout as it was; whatever else writes to stdout from now on reaches stderr."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def main() -> None:
    """Answers requests until stdin ends."""
    replies = _replies()

    def reply(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=replies, flush=True)

    try:
        server = Server(_adapter_class(sys.argv[1]))
        reply(server.describe())
    except BaseException as error:
        traceback.print_exc()
        reply({"error": _one_line(error), "kind": "failure"})
        return
    for line in sys.stdin:
        request = json.loads(line)
        try:
            message = getattr(server, request.pop("do"))(**request)
        except Exception as error:
            traceback.print_exc()
            message = {"error": _one_line(error), "kind": _kind(error)}
        reply(message)


def _one_line(error: BaseException) -> str:
    first = str(error).strip().splitlines()[:1]
    return ": ".join([type(error).__name__, *(line[:300] for line in first)])


if __name__ == "__main__":
    main()
