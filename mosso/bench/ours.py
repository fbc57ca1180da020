"""mosso in the benchmark: the adapter that ``peers/serve.py`` loads for it, with the interface of peers/README.md.

Backends: ``auto`` is what users get; ``eager`` the same without CUDA graphs; ``stock`` and ``stock-eager`` likewise without the form with
tables; ``triton`` every op in Triton and the form with tables, measured or not; ``reference`` every op in plain torch and no tables, which
makes the true answers.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mosso.bench import cases
from mosso.bench.forms import stock
from mosso.bench.profile.subject import Subject
from mosso.bench.random_weights import checkpoint_of
from mosso.bench.searches import CapturedSearch, EverySearch
from mosso.data.structure import Batch, Structure
from mosso.dynamics.integrators import Langevin
from mosso.dynamics.simulate import simulate
from mosso.dynamics.trajectory import LogWriter, TrajectoryWriter
from mosso.dynamics.writing import WriterThread
from mosso.engine.capture import CapturedPotential
from mosso.engine.potential import Potential, read_checkpoint
from mosso.graph.graph import Graph
from mosso.interfaces.ase import Calculator
from mosso.kernels import dispatch, preferred
from mosso.models.outputs import Output
from mosso.precision import POLICIES, Precision
from mosso.weights import store

# As in peers/dynamics.py: K, 1/fs; steps between rows of the log and frames of the trajectory.
TEMPERATURE, FRICTION, LOG_EVERY, WRITE_EVERY = 300.0, 0.01, 10, 100


class Backend(NamedTuple):
    """An implementation of a model.

    Attributes:
        form: what is made of the potential before it is used.
        ops: that its ops prefer; ``auto`` leaves the choice to them.
        captured: whether evaluations are CUDA graphs.
    """

    form: Callable[[Potential], Potential]
    ops: str
    captured: bool


def _usual(potential: Potential) -> Potential:
    """In the form that it takes by itself."""
    return potential


BACKENDS: dict[str, Backend] = {
    "auto": Backend(_usual, "auto", True),
    "eager": Backend(_usual, "auto", False),
    "stock": Backend(stock, "auto", True),
    "stock-eager": Backend(stock, "auto", False),
    "triton": Backend(_usual, "triton", True),
    "reference": Backend(stock, "reference", False),
}


class Adapter:
    """A potential and the atoms it was given."""

    packages = ("mosso", "numpy", "triton", "vesin", "ase")
    _batch: Batch | None
    _graph: Graph | None
    _search: CapturedSearch | None
    _whole: EverySearch | None
    _engine: Potential | CapturedPotential

    def __init__(self, model: str, backend: str, precision: str, device: str, weights: str | None = None) -> None:
        policy = _policy(backend, precision, device)
        file = None if weights is None else Path(weights)
        if model in cases.MODELS:
            checkpoint, kind = checkpoint_of(model, file), "random"
        else:
            checkpoint, kind = read_checkpoint(model if file is None else file), "official"
        official = store.find(model).sha256 if kind == "official" and file is None else None
        self.device, self._backend = device, BACKENDS[backend]
        with self._ops():
            self._potential = self._backend.form(Potential(checkpoint, name=model, device=device, precision=policy))
            # Whether one CUDA graph holds the search as well; else the host searches.
            self._on_device = self._captured and preferred("neighbor_list", self._potential.device) == "triton"
            rounds = preferred("path_linear", self._potential.device) == "triton"  # torch's own products are not rounded
        module: Any = self._potential.model
        self.facts = {
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "weights": kind if file is None else "file",
            "weights_sha256": official if file is None else hashlib.sha256(file.read_bytes()).hexdigest(),
            "truth": "fp64",
            "tf32": rounds and policy.matmul == "tf32" if device == "cuda" else None,
        }
        self.release()

    @property
    def _captured(self) -> bool:
        return self.device == "cuda" and self._backend.captured

    def prepare(self, structures: Any, stress: bool) -> int:
        """Atoms and their edges."""
        self.release()
        self._batch = self._potential.batch(_structures(structures))
        self._stress = stress
        graph = self._found()
        return int(graph.receiver_offsets[-1])

    def work(self) -> dict[str, float | None] | None:
        """What an evaluation must do at least (``mosso.bench.limits``), and how long that takes where the limits of the device are known;
        None for architectures whose work is not counted."""
        assert self._graph is not None
        subject = Subject(self._potential, self._given(), self._graph, self._stress)
        costs, rates = subject.costs(), subject.known_rates()
        if not costs:
            return None
        return {
            "gflops": 1e-9 * sum(cost.flops for cost in costs),
            "gbytes": 1e-9 * sum(cost.bytes for cost in costs),
            "least_ms": None if rates is None else 1e-3 * sum(cost.microseconds(rates) for cost in costs),
        }

    def place(self, positions: np.ndarray) -> None:
        """The same atoms elsewhere."""
        positions_N3 = torch.as_tensor(positions, dtype=torch.float64).to(self.device)
        self._batch = replace(self._given(), positions_N3=positions_N3)

    def search(self) -> None:
        """The neighbour list, by the search that dynamics use."""
        self._found()

    def evaluate(self) -> Output:
        """Energy, forces and perhaps stress."""
        assert self._graph is not None
        with self._ops():
            return self._engine.evaluate(self._given(), self._graph, stress=self._stress)

    def search_and_evaluate(self) -> Output:
        """Both; on the device in one recording, as the ASE calculator makes it."""
        if not self._on_device:
            self.search()
            return self.evaluate()
        with self._ops():
            if self._whole is None:
                self._whole = EverySearch.of(self._potential, self._given(), self._stress)
            return self._whole.evaluate(self._given())

    def answer(self, output: Output) -> dict[str, np.ndarray]:
        """On the host."""
        found = {"energy": output.energy, "forces": output.forces} | ({"stress": output.stress} if self._stress else {})
        return {name: tensor.detach().double().cpu().numpy() for name, tensor in found.items() if tensor is not None}

    def calculator(self) -> Calculator:
        """The ASE calculator."""
        adapter = self

        class OfBackend(Calculator):
            def calculate(self, *arguments: Any, **options: Any) -> None:
                with adapter._ops():
                    super().calculate(*arguments, **options)

        return OfBackend(self._potential)

    def dynamics(self, structures: Any, timestep: float) -> Callable[[int, Callable[[int], None]], None]:
        """Constant temperature by mosso's own loop; list, log and trajectory included. Its host knows of whole blocks of steps."""
        folder = Path(tempfile.mkdtemp())

        def run(steps: int, done: Callable[[int], None]) -> None:
            with (
                self._ops(),
                LogWriter(folder / "run.csv") as log,
                TrajectoryWriter(folder / "run.extxyz") as frames,
                WriterThread() as writer,
            ):
                simulate(
                    self._potential,
                    _structures(structures),
                    Langevin(TEMPERATURE, FRICTION),
                    num_steps=steps,
                    timestep=timestep,
                    log_every=LOG_EVERY,
                    write_every=WRITE_EVERY,
                    on_log=writer.later(log),
                    on_frame=writer.later(frames),
                    on_block=done,
                )

        return run

    def release(self) -> None:
        """Forget the atoms, and the recordings made of them."""
        self._batch = self._graph = self._search = self._whole = None
        self._stress = False
        # Edges are given, so a user's loop would replay one recording, as the dynamics do.
        self._engine = CapturedPotential(self._potential) if self._captured else self._potential

    def _given(self) -> Batch:
        assert self._batch is not None, "nothing was prepared"
        return self._batch

    def _found(self) -> Graph:
        batch = self._given()
        with self._ops():
            if not self._on_device:
                self._graph = self._potential.graph(batch)
            else:
                self._search = self._search or CapturedSearch(batch, self._potential.cutoff)
                self._graph = self._search.graph(batch)
        return self._graph

    @contextmanager
    def _ops(self) -> Iterator[None]:
        with nullcontext() if self._backend.ops == "auto" else dispatch.prefer(self._backend.ops):
            yield


def _policy(backend: str, precision: str, device: str) -> Precision:
    """The precision, after checking that it can be had.

    Raises:
        NotImplementedError: what cannot be had.
    """
    if backend not in BACKENDS:
        raise NotImplementedError(f"mosso has no backend {backend!r}: {', '.join(BACKENDS)}")
    if backend == "triton" and device != "cuda":
        raise NotImplementedError("ops in Triton run on CUDA devices")
    if precision not in POLICIES:
        raise NotImplementedError(f"mosso has no precision {precision!r}: {', '.join(POLICIES)}")
    if device != "cuda" and POLICIES[precision].matmul != "ieee":
        raise NotImplementedError(f"{precision} rounds the operands of products on CUDA devices only")
    return POLICIES[precision]


def _structures(structures: Any) -> list[Structure]:
    return [Structure(numbers, positions, cell, pbc) for numbers, positions, cell, pbc in structures.split()]
