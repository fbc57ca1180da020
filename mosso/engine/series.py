"""Evaluations of atoms that are moved from the host, one after the other, as ASE asks for them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from mosso.data.structure import Batch
from mosso.engine.capture import record, warm_up
from mosso.engine.potential import Potential
from mosso.graph.device_list import MOVED, DeviceList
from mosso.graph.verlet import VerletList
from mosso.kernels import preferred
from mosso.models.outputs import Output

T = TypeVar("T")


class Series:
    """Energies, forces and perhaps stress of batch after batch, fastest where the same atoms come again.

    On CUDA devices the first evaluation of some atoms is made op by op; from the second one on, neighbour list and evaluation are
    one CUDA graph. Elsewhere the neighbour list is kept from call to call, and what depends on the elements.

    Args:
        potential: what is evaluated.
        skin: Angstrom by which lists reach beyond the cutoff; results do not depend on it.
    """

    def __init__(self, potential: Potential, skin: float) -> None:
        self._potential, self._skin = potential, skin
        self._current: OnHost | OnDevice | None = None
        VerletList(potential.cutoff, skin)  # refuses a skin that is none before there are atoms

    def evaluate(self, batch: Batch, stress: bool) -> Output:
        """Tensors that the next call may overwrite. A ValueError names atoms that cannot be evaluated."""
        current = self._current
        if current is None or not current.fits(batch, stress):
            current = OnHost(self._potential, batch, self._skin, stress)
        elif isinstance(current, OnHost) and preferred("neighbor_list", self._potential.device) == "triton":
            current = OnDevice(self._potential, batch, self._skin, stress)
        self._current = None  # an error must not leave a list of other positions behind
        output = current.evaluate(batch)
        self._current = current
        return output


class _SameAtoms:
    """What a series is of."""

    def __init__(self, batch: Batch, stress: bool) -> None:
        self.stress = stress
        self._numbers_N, self._pbc_B3, self._offsets = batch.numbers_N.clone(), batch.pbc_B3.clone(), batch.offsets

    def fits(self, batch: Batch, stress: bool) -> bool:
        """Whether ``batch`` has these atoms, wherever they are, and as much is asked of it."""
        return (
            stress == self.stress
            and batch.offsets == self._offsets
            and torch.equal(batch.numbers_N, self._numbers_N)
            and torch.equal(batch.pbc_B3, self._pbc_B3)
        )


class OnHost(_SameAtoms):
    """The host looks for neighbours and starts every op."""

    def __init__(self, potential: Potential, batch: Batch, skin: float, stress: bool) -> None:
        super().__init__(batch, stress)
        self._neighbors, self._bound = VerletList(potential.cutoff, skin), potential.bind(batch)

    def evaluate(self, batch: Batch) -> Output:
        return self._bound.evaluate(batch, self._neighbors.update(batch), stress=self.stress)


def captured(compute: Callable[[], T], pool: Any) -> Callable[[], T]:
    """A function that does what ``compute`` does by replaying a CUDA graph, and gives the same tensors every time."""
    warm_up(compute)
    graph, result = record(compute, pool)

    def replay() -> T:
        graph.replay()
        return result

    return replay


class OnDevice(_SameAtoms):
    """Neighbour list, model, forces and stress in one CUDA graph, in two forms: with a search for neighbours, and with those of the
    last search. Which one was right is known after the fact, from flags on the device.

    Args:
        recorder: ``captured``, or what stands in for it where there is no CUDA.
    """

    def __init__(
        self, potential: Potential, batch: Batch, skin: float, stress: bool, recorder: Callable[..., Callable[[], Output]] = captured
    ) -> None:
        super().__init__(batch, stress)
        self._potential, self._bound, self._recorder = potential, potential.bind(batch), recorder
        self._batch = replace(batch, positions_N3=batch.positions_N3.clone(), cell_B33=batch.cell_B33.clone())
        self._neighbors = DeviceList(batch, potential.cutoff, skin)
        self._search_next = True
        self._forget()

    def evaluate(self, batch: Batch) -> Output:
        self._batch.positions_N3.copy_(batch.positions_N3)
        self._batch.cell_B33.copy_(batch.cell_B33)
        while True:
            searched, output = self._search_next, self._replay(self._search_next)
            flags = int(self._neighbors.flags)
            self._search_next = flags != 0
            if flags == 0:
                return output
            if flags & ~MOVED:
                self._neighbors = self._neighbors.grown(self._batch)
                self._forget()
            elif searched:
                self._potential.graph(batch)  # names what is wrong with the positions
                raise ValueError("No neighbours can be found at these positions.")

    def _replay(self, search: bool) -> Output:
        def compute() -> Output:
            if search:
                self._neighbors.rebuild(self._batch)
            return self._bound.evaluate(self._batch, self._neighbors.graph(self._batch), stress=self.stress)

        if search not in self._recorded:
            self._recorded[search] = self._recorder(compute, self._pool)
        self._neighbors.reset()
        return self._recorded[search]()

    def _forget(self) -> None:
        """Drop what was recorded with other buffers."""
        self._recorded: dict[bool, Callable[[], Output]] = {}
        # both forms in the same memory, since only one runs at a time; of a pool that no graph uses any more torch makes no other
        self._pool = torch.cuda.graph_pool_handle() if self._potential.device.type == "cuda" else None
