"""The neighbour search of mosso's captured loops on its own, and with an evaluation, made anew at every call.

The loops themselves look for neighbours only when atoms have left the skin; a benchmark of the search wants it every time.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

from mosso.data.structure import Batch
from mosso.engine.potential import Potential
from mosso.engine.series import OnDevice, captured
from mosso.graph.device_list import MOVED, DeviceList
from mosso.graph.graph import Graph
from mosso.models.outputs import Output

# Angstrom: lists serve one call, so they reach hardly further than the cutoff.
SKIN = 0.01
Recorder = Callable[[Callable[[], Any], Any], Callable[[], Any]]


class CapturedSearch:
    """Edges of the same atoms, wherever they are, by a CUDA graph that searches anew.

    Args:
        batch: the atoms.
        cutoff: Angstrom.
        recorder: ``series.captured``, or what stands in for it where there is no CUDA.
    """

    def __init__(self, batch: Batch, cutoff: float, recorder: Recorder = captured) -> None:
        self._batch = replace(batch, positions_N3=batch.positions_N3.clone(), cell_B33=batch.cell_B33.clone())
        self._list, self._recorder = DeviceList(batch, cutoff, SKIN), recorder
        self._replay: Callable[[], Graph] | None = None

    def graph(self, batch: Batch) -> Graph:
        """Edges in buffers that the next call overwrites, as a Graph of their own: those who keep what they made of a Graph take one
        for unchanged (``CapturedPotential``). A ValueError where none can be found at these positions."""
        self._batch.positions_N3.copy_(batch.positions_N3)
        self._batch.cell_B33.copy_(batch.cell_B33)
        while True:
            self._replay = self._replay or self._recorder(self._find, None)
            self._list.reset()
            graph = self._replay()
            flags = int(self._list.flags)
            if flags == 0:
                return replace(graph)
            if not flags & ~MOVED:
                raise ValueError("No neighbours can be found at these positions.")
            self._list, self._replay = self._list.grown(self._batch), None

    def _find(self) -> Graph:
        self._list.rebuild(self._batch)
        return self._list.graph(self._batch)


class EverySearch(OnDevice):
    """Search and evaluation in one CUDA graph that is never replayed without the search."""

    @classmethod
    def of(cls, potential: Potential, batch: Batch, stress: bool, **options: Any) -> Self:
        """For the atoms of ``batch``; options as for ``OnDevice``."""
        return cls(potential, batch, SKIN, stress, **options)

    def evaluate(self, batch: Batch) -> Output:
        """As ``OnDevice.evaluate``."""
        self._search_next = True
        return super().evaluate(batch)
