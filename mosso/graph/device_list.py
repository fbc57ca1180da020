"""Neighbour list in buffers of fixed size on the device of the batch, so that a captured loop can rebuild and filter it.

As in verlet.py, one search serves many steps because it looks further than the cutoff by a skin. Nothing here waits for the
host: what went wrong is written to flags on the device, and whoever runs the loop reads them when it suits and repeats the
steps since the last good state.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mosso.data.structure import Batch
from mosso.graph.bins import SearchMethod, plan_bins
from mosso.graph.graph import Graph, edge_vectors
from mosso.graph.neighbors import check_cutoff, edges_within, neighbor_list
from mosso.graph.verlet import SAFE_SHARE, check_skin
from mosso.kernels import neighbor_ops
from mosso.kernels.reference.neighbor_list import CANDIDATES, EDGES, MOVED, SPANS, Candidates, Edges, Report, inverse_cells, movement

__all__ = ["CANDIDATES", "EDGES", "MOVED", "SPANS", "Counts", "DeviceList"]

# Room beyond what was counted, so that a liquid does not outgrow its buffers every few steps.
HEADROOM = 1.2
# And a few more, because small numbers fluctuate most.
EXTRA = 32
# Candidates are numbered in int32.
MAX_CANDIDATES = 2**31 - 1


class Counts(NamedTuple):
    """Numbers of edges and of candidates."""

    edges: int
    candidates: int


class DeviceList:
    """Neighbour lists of the same atoms as they move, without the host, of static shapes.

    ``rebuild`` finds the candidates, all pairs closer than cutoff + skin; ``graph`` keeps those that are closer than the
    cutoff now. On CUDA devices both can be captured, once they have run; on the CPU the search is vesin's.

    Args:
        batch: the atoms; numbers, systems and pbc stay, positions and cells may change.
        cutoff: Angstrom.
        skin: Angstrom.
        edge_capacity, candidate_capacity: room in the buffers; more than the batch needs by a fifth where None.
        method: search on CUDA devices, ``brute`` force or ``cells``; ``auto`` takes cells for systems that are not small.
        implementation: auto, reference or triton; see kernels/dispatch.py.

    Attributes:
        capacity: room for edges and for candidates.
        flags: (1,) int32 on the device, bits that stay until ``reset``. MOVED: since the rebuild atoms moved or the cell
            changed so much that edges may be missing. EDGES, CANDIDATES: there were more than the capacity. SPANS: the cell
            shrank so much that the search missed bins. The last three leave the graph empty. A graph is right if no
            bit is set after it was made; ``grown`` makes the list that goes on from there.

    Raises:
        ValueError: unusable cutoff or skin; where the host searches, also what ``neighbor_list`` refuses.
    """

    def __init__(
        self,
        batch: Batch,
        cutoff: float,
        skin: float,
        edge_capacity: int | None = None,
        candidate_capacity: int | None = None,
        method: SearchMethod = "auto",
        implementation: str = "auto",
    ) -> None:
        self.cutoff, self.skin = check_cutoff(cutoff), check_skin(skin)
        self._choices: tuple[SearchMethod, str] = (method, implementation)
        if edge_capacity is None or candidate_capacity is None:
            room = _with_headroom(_count(batch, self.cutoff, self.skin))
            edge_capacity = room.edges if edge_capacity is None else edge_capacity
            candidate_capacity = room.candidates if candidate_capacity is None else candidate_capacity
        if candidate_capacity > MAX_CANDIDATES:
            raise ValueError(
                f"There are {candidate_capacity} candidate pairs, and at most {MAX_CANDIDATES} can be held: use smaller batches."
            )
        self.capacity = Counts(edge_capacity, candidate_capacity) if batch.num_atoms else Counts(0, 0)
        self._offsets = batch.offsets
        self._bins = plan_bins(batch, self.cutoff + self.skin, method)
        # the cutoff, how far candidates reach whatever rounds, and how far they are searched
        reaches = (self.cutoff, self.cutoff + SAFE_SHARE * self.skin, self.cutoff + self.skin)
        self._radii = batch.positions_N3.new_tensor(reaches)
        self._ops = neighbor_ops(batch.positions_N3, implementation)
        self._candidates = _no_candidates(batch, self.capacity.candidates)
        self._edges = _no_edges(batch, self.capacity.edges)
        device = batch.positions_N3.device
        self._report = Report(torch.zeros(1, dtype=torch.int32, device=device), torch.zeros(2, dtype=torch.int64, device=device))
        self._built = False

    @property
    def flags(self) -> Tensor:
        return self._report.flags

    @torch.no_grad()
    def rebuild(self, batch: Batch) -> None:
        """Find all pairs closer than cutoff + skin. Those of a receiver are in the order of sender and shift, so that graphs do not
        depend on when the list was rebuilt."""
        self._check(batch)
        candidates = self._candidates
        candidates.positions_N3.copy_(batch.positions_N3)
        candidates.cell_B33.copy_(batch.cell_B33)
        inverse_B33 = inverse_cells(self._bins.complete(batch.cell_B33))
        candidates.inverse_B33.copy_(inverse_B33 * self._bins.periodic_B3.unsqueeze(1))
        if self._ops.find_candidates is None:
            self._search_on_host(batch)
        else:
            self._ops.find_candidates(*_state(batch), self._bins, self._radii, candidates, self._report)
        self._built = True

    @torch.no_grad()
    def used(self, batch: Batch) -> Tensor:
        """() float64, share of the skin that atoms and cells have used up since the rebuild; the list fails above one."""
        moved_N, limit_B = movement(*_state(batch), self._candidates, self._radii)
        at_rest = 0.5 * (self._radii[1] - self._radii[0])
        left_N = limit_B[batch.system_N] - moved_N
        return 1.0 - left_N.min() / at_rest if batch.num_atoms else at_rest.new_zeros(())

    @torch.no_grad()
    def graph(self, batch: Batch) -> Graph:
        """The edges of ``batch`` strictly shorter than the cutoff, padded, in the same buffers at every call.

        The order is that of ``neighbor_list``. How many edges are real is known on the device only, as
        ``receiver_offsets[-1]``; ``num_edges`` is 0.
        """
        self._check(batch)
        if not self._built:
            raise ValueError("There is no list to take edges from yet: call rebuild first.")
        self._ops.select_edges(*_state(batch), self._candidates, self._radii, self._edges, self._report)
        edges = self._edges
        return Graph(
            senders_E=edges.senders_E,
            receivers_E=edges.receivers_E,
            shifts_E3=edges.shifts_E3,
            receiver_offsets=edges.offsets,
            transpose_E=edges.transpose_E,
            sender_offsets=edges.offsets,
            num_edges=0,
            cutoff=self.cutoff,
        )

    def reset(self) -> None:
        """Forget the flags and what was needed."""
        self._report.flags.zero_()
        self._report.most.zero_()

    def needed(self) -> Counts:
        """The largest numbers since ``reset``, whether they fitted or not; waits for the device."""
        return Counts(*self._report.most.tolist())

    def grown(self, batch: Batch) -> "DeviceList":
        """A new list, not built yet, with room for ``batch`` and for what was needed here; waits for the device."""
        rooms = (self.capacity, _with_headroom(self.needed()), _with_headroom(_count(batch, self.cutoff, self.skin)))
        edges, candidates = (max(sizes) for sizes in zip(*rooms, strict=True))
        return DeviceList(batch, self.cutoff, self.skin, edges, candidates, *self._choices)

    def _check(self, batch: Batch) -> None:
        if batch.offsets != self._offsets:
            raise ValueError("The batch has other systems than the one this list was made for: make a new list.")

    def _search_on_host(self, batch: Batch) -> None:
        found, candidates = neighbor_list(batch, self.cutoff + self.skin), self._candidates
        self._report.ask(1, found.receiver_offsets[-1])
        self._report.add(CANDIDATES, found.receiver_offsets[-1] > self.capacity.candidates)
        if found.num_edges > self.capacity.candidates:
            candidates.offsets.zero_()
            return
        padded = found.padded(self.capacity.candidates)
        candidates.senders_C.copy_(padded.senders_E)
        candidates.receivers_C.copy_(padded.receivers_E)
        candidates.shifts_C3.copy_(padded.shifts_E3)
        candidates.offsets.copy_(padded.receiver_offsets)
        candidates.outgoing_C.copy_(padded.transpose_E)


def _state(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    return batch.positions_N3.contiguous(), batch.cell_B33.contiguous(), batch.system_N


def _count(batch: Batch, cutoff: float, skin: float) -> Counts:
    found = neighbor_list(batch, cutoff + skin)
    near_E = edges_within(edge_vectors(batch, found), found.senders_E, found.receivers_E, batch, cutoff)
    return Counts(int(near_E.sum()), found.num_edges)


def _with_headroom(counts: Counts) -> Counts:
    return Counts(*(math.ceil(HEADROOM * count) + EXTRA for count in counts))


def _no_candidates(batch: Batch, capacity: int) -> Candidates:
    last = batch.system_N.new_full((capacity,), batch.num_atoms - 1, dtype=torch.int32)
    return Candidates(
        senders_C=last,
        receivers_C=last.clone(),
        shifts_C3=last.new_zeros(capacity, 3),
        offsets=batch.system_N.new_zeros(batch.num_atoms + 1),
        outgoing_C=torch.arange(capacity, dtype=torch.int32, device=last.device),
        positions_N3=torch.zeros_like(batch.positions_N3),
        cell_B33=torch.zeros_like(batch.cell_B33),
        inverse_B33=torch.zeros_like(batch.cell_B33),
    )


def _no_edges(batch: Batch, capacity: int) -> Edges:
    ends = batch.system_N.new_full((2, capacity), batch.num_atoms - 1)
    return Edges(
        senders_E=ends[0],
        receivers_E=ends[1],
        shifts_E3=ends.new_zeros(capacity, 3, dtype=torch.int32),
        offsets=ends.new_zeros(batch.num_atoms + 1),
        transpose_E=torch.arange(capacity, device=ends.device),
    )
