"""Who makes the steps: plain calls, or CUDA graphs over buffers that stay where they are.

Either way a step is a function State -> State (any dataclass of tensors) and a kind of step; the runner holds the state.
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from mosso.dynamics.leaves import leaves, mapped, rebuilt
from mosso.engine.capture import copy_all, record, warm_up

T = TypeVar("T")
V = TypeVar("V")


class Kind(NamedTuple):
    """What one step does beside moving: search the neighbours anew, and say what is recorded of it."""

    rebuild: bool
    recorded: bool


class Runner(Protocol[T]):
    """Holds a state and moves it.

    Attributes:
        ahead: how many blocks of steps are worth starting before it is known whether the ones before were good.
    """

    ahead: int

    @property
    def state(self) -> T:
        """The state now; a captured runner overwrites it with the next step."""
        ...

    def step(self, kind: Kind) -> None: ...

    def snapshot(self) -> T:
        """The state, safe from later steps."""
        ...

    def restore(self, state: T) -> None:
        """Go back to a snapshot."""
        ...

    def fetch(self, value: V) -> V:
        """A copy on the host of (part of) the state as it is when the device gets here; read it after ``mark`` has passed."""
        ...

    def mark(self) -> Callable[[], None]:
        """A function that waits until the device has done everything asked of it so far."""
        ...

    def forget(self) -> None:
        """The step function works in other buffers from now on: drop what was made of the old ones."""
        ...


class EagerRunner(Generic[T]):
    """Calls the step; states are values, so a snapshot is the state itself."""

    ahead = 0

    def __init__(self, step: Callable[[T, Kind], T], state: T) -> None:
        self._step = step
        self.state = state

    def step(self, kind: Kind) -> None:
        self.state = self._step(self.state, kind)

    def snapshot(self) -> T:
        return self.state

    def restore(self, state: T) -> None:
        self.state = state

    def fetch(self, value: V) -> V:
        return mapped(value, lambda tensor: tensor.detach().cpu())

    def mark(self) -> Callable[[], None]:
        return lambda: None

    def forget(self) -> None:
        return


class CapturedRunner(Generic[T]):
    """Records one CUDA graph per kind of step, from the buffers of the state into the same buffers, and replays it.

    Args:
        step: the step, without reads of the device by the host.
        state: where to start; its tensors are on one CUDA device.
        marks: tensors that ``step`` changes beside the state and that must not remember the warm-up before a recording.
    """

    ahead = 1

    def __init__(self, step: Callable[[T, Kind], T], state: T, marks: Callable[[], list[Tensor]]) -> None:
        self._step, self._marks = step, marks
        self._template = state  # which tensors there are after the last step; a part may be absent after some kinds
        self._buffers = {path: leaf.clone() for path, leaf in leaves(state).items()}
        self._graphs: dict[Kind, tuple[torch.cuda.CUDAGraph, T]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._device = next(iter(self._buffers.values())).device

    @property
    def state(self) -> T:
        return rebuilt(self._template, self._buffers)

    def step(self, kind: Kind) -> None:
        if kind not in self._graphs:
            self._graphs[kind] = self._recorded(kind)
        graph, self._template = self._graphs[kind]
        graph.replay()

    def snapshot(self) -> T:
        return mapped(self.state, torch.clone)

    def restore(self, state: T) -> None:
        self._template = state
        for path, leaf in leaves(state).items():
            self._buffers[path].copy_(leaf)

    def fetch(self, value: V) -> V:
        def pinned(tensor: Tensor) -> Tensor:
            return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)

        return mapped(value, pinned)

    def mark(self) -> Callable[[], None]:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event.synchronize

    def forget(self) -> None:
        self._graphs.clear()
        # of a pool that no graph uses any more torch makes no other
        self._pool = torch.cuda.graph_pool_handle()

    def _recorded(self, kind: Kind) -> tuple[torch.cuda.CUDAGraph, T]:
        """The graph of a kind of step, and a result whose tensors lie in the graph's own memory: only its shape is of use."""
        start = self.state

        def step_in_place() -> T:
            after = self._step(start, kind)
            moved = {path: leaf for path, leaf in leaves(after).items() if leaf is not self._buffers[path]}
            copy_all([self._buffers[path] for path in moved], list(moved.values()))
            return after

        with torch.cuda.device(self._device):
            kept = [mark.clone() for mark in self._marks()]
            made = warm_up(lambda: self._step(start, kind))
            for mark, value in zip(self._marks(), kept, strict=True):
                mark.copy_(value)
            for path, leaf in leaves(made).items():
                if path not in self._buffers:
                    self._buffers[path] = torch.zeros_like(leaf)
            return record(step_in_place, self._pool)
