"""CUDA graphs: how one is recorded, and one per evaluation that replays model, backward pass, forces and stress without a launch
from the host. The loop of the dynamics records whole steps instead (dynamics/runners.py)."""

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from mosso.data.structure import Batch
from mosso.engine.potential import Potential
from mosso.graph.graph import Graph
from mosso.models.outputs import Output

T = TypeVar("T")

# Room for edges beyond those of the first call, so that a liquid does not outgrow its buffers every few steps.
HEADROOM = 1.2
_WARM_UP = 3  # evaluations before capture: lazy initialisation of libraries must not be recorded


def warm_up(compute: Callable[[], T]) -> T:
    """Call ``compute`` a few times on a stream of its own, as a recording needs it before; gives what the last call gave."""
    stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            result = compute()
    current.wait_stream(stream)
    return result


def record(compute: Callable[[], T], pool: Any = None) -> tuple[torch.cuda.CUDAGraph, T]:
    """A CUDA graph of one call of ``compute``, which nothing is computed by yet, and what the call gave: tensors that every replay
    fills. Other threads may go on using CUDA meanwhile.

    Args:
        compute: reads the same tensors at every replay; they must be kept. Does not read the device from the host.
        pool: memory shared with other graphs that are never replayed at the same time, from torch.cuda.graph_pool_handle().
    """
    cuda_graph = torch.cuda.CUDAGraph()
    with _no_garbage_collection(), torch.cuda.graph(cuda_graph, pool=pool, capture_error_mode="thread_local"):
        result = compute()
    return cuda_graph, result


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Garbage may hold an older graph, and to free that one ends the recording of another."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def copy_all(into: list[Tensor], values: list[Tensor]) -> None:
    """``copy_`` of each to each, one kernel for all of a type."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in into):
        chosen = [index for index, tensor in enumerate(into) if tensor.dtype == dtype]
        torch._foreach_copy_([into[i] for i in chosen], [values[i] for i in chosen])


class CapturedPotential:
    """A Potential on CUDA whose ``evaluate`` replays a recorded graph.

    The recording holds for the same atoms (numbers, systems, pbc) and up to a capacity of edges; positions are copied into
    its buffers before each replay, edges where the Graph is another object than that of the evaluation before: a Graph does not
    change, who searches anew makes a new one. The cell is copied where it is another tensor or torch has counted a write to it; writes
    by a CUDA graph of one's own are not counted, and want another tensor. Other atoms, another choice of outputs or more edges make
    a new recording. Edges of the padding have the length of the cutoff and contribute exact zeros.

    Everything else (``batch``, ``graph``, ``cutoff``, ...) is the Potential's own, so this object does for dynamics what the
    Potential does.
    """

    def __init__(self, potential: Potential) -> None:
        if potential.device.type != "cuda":
            raise ValueError(f"Capturing needs a CUDA device, the potential is on {potential.device}: use it as it is there.")
        self.potential = potential
        self._recording: _Recording | None = None
        self.num_recordings = 0

    @property
    def device(self) -> torch.device:
        return self.potential.device

    @property
    def cutoff(self) -> float:
        """Angstrom."""
        return self.potential.cutoff

    def batch(self, structures: Iterable[Any]) -> Batch:
        return self.potential.batch(structures)

    def graph(self, batch: Batch) -> Graph:
        return self.potential.graph(batch)

    def evaluate(self, batch: Batch, graph: Graph, *, stress: bool = False) -> Output:
        """As ``Potential.evaluate``, with forces."""
        if self._recording is None or not self._recording.fits(batch, graph, stress):
            self._recording = None  # frees its memory before the next one takes some
            self._recording = _Recording(self.potential, batch, graph, stress)
            self.num_recordings += 1
        return self._recording.replay(batch, graph)


def room_for(graph: Graph) -> int:
    """Edges that a recording is made for: with headroom, unless whoever made the graph has left some."""
    return max(graph.capacity if graph.num_edges < graph.capacity else int(HEADROOM * graph.capacity), 1)


class _Recording:
    """A captured graph with its input and output buffers."""

    def __init__(self, potential: Potential, batch: Batch, graph: Graph, stress: bool) -> None:
        self.stress = stress
        self.given: Graph | None = None  # whose edges are in the buffers
        self.cell: tuple[Tensor, int] | None = None  # which is in the buffers, and how often it had been written to
        self.numbers_N = batch.numbers_N
        self.batch = replace(batch, positions_N3=batch.positions_N3.clone(), cell_B33=batch.cell_B33.clone())
        padded = graph.padded(room_for(graph)) if batch.num_atoms else graph
        # Not the number of edges at recording: it is read from the row offsets at every replay.
        copies = {f.name: getattr(padded, f.name).clone() for f in fields(Graph) if isinstance(getattr(padded, f.name), Tensor)}
        self.graph = replace(padded, **copies, num_edges=0)
        # Kept, because the recording reads its species at every replay.
        self.bound = potential.bind(batch)

        def step() -> Output:
            return self.bound.evaluate(self.batch, self.graph, stress=stress)

        with torch.cuda.device(potential.device):
            warm_up(step)
            self.cuda_graph, self.output = record(step)

    def fits(self, batch: Batch, graph: Graph, stress: bool) -> bool:
        """Whether a replay answers for these inputs; the same numbers tensor is taken for the same atoms without looking."""
        return (
            stress == self.stress
            and graph.capacity <= self.graph.capacity
            and batch.offsets == self.batch.offsets
            and (batch.numbers_N is self.numbers_N or torch.equal(batch.numbers_N, self.numbers_N))
        )

    def replay(self, batch: Batch, graph: Graph) -> Output:
        self.batch.positions_N3.copy_(batch.positions_N3)
        cell = batch.cell_B33
        # Tensors of inference mode do not count how often they were written to.
        if cell.is_inference() or self.cell is None or cell is not self.cell[0] or cell._version != self.cell[1]:
            self.batch.cell_B33.copy_(cell)
            self.cell = None if cell.is_inference() else (cell, cell._version)
        if graph is not self.given:
            self.given = graph
            self._take(graph)
        self.cuda_graph.replay()
        # Copies, because the next replay writes into the same memory.
        results = {f.name: getattr(self.output, f.name) for f in fields(Output) if isinstance(getattr(self.output, f.name), Tensor)}
        copies: dict[str, Any] = {name: torch.empty_like(tensor) for name, tensor in results.items()}
        copy_all(list(copies.values()), list(results.values()))
        return replace(self.output, **copies)

    def _take(self, graph: Graph) -> None:
        """Copy the edges into the buffers, and make those behind them padding."""
        last = max(self.batch.num_atoms - 1, 0)
        for name, filler in (("senders_E", last), ("receivers_E", last), ("shifts_E3", 0), ("transpose_E", 0)):
            buffer, values = getattr(self.graph, name), getattr(graph, name)
            buffer[: graph.capacity].copy_(values)
            buffer[graph.capacity :].fill_(filler)
        self.graph.receiver_offsets.copy_(graph.receiver_offsets)
        self.graph.sender_offsets.copy_(graph.sender_offsets)
