"""Graph: who sends to whom, sorted by receiver, with the transpose for the backward pass and exact padding."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mosso import kernels
from mosso.data.structure import Batch
from mosso.kernels.reference import neighbor_list


@dataclass(frozen=True, eq=False)
class Graph:
    """Directed edges sender -> receiver of a batch in compressed rows by receiver.

    The edge vector is ``positions[receiver] - positions[sender] + shifts @ cell``. Every pair within the
    cutoff appears once in each direction.

    Attributes:
        senders_E, receivers_E: (E,) int64; receivers ascending.
        shifts_E3: (E, 3) int32, lattice translations of the edge.
        receiver_offsets: (N + 1,) int64; edges into atom n are receiver_offsets[n]:receiver_offsets[n+1].
        transpose_E: (E,) int64, edge order sorted by sender (stable), for sums over outgoing edges.
        sender_offsets: (N + 1,) int64; edges out of atom n are transpose_E[sender_offsets[n]:sender_offsets[n+1]].
        num_edges: how many edges are real; those behind are padding.
        cutoff: Angstrom; padding edges are given this length, where every envelope is exactly zero.
    """

    senders_E: Tensor
    receivers_E: Tensor
    shifts_E3: Tensor
    receiver_offsets: Tensor
    transpose_E: Tensor
    sender_offsets: Tensor
    num_edges: int
    cutoff: float

    @property
    def capacity(self) -> int:
        return self.senders_E.shape[0]

    @property
    def rows(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Senders, receivers, row offsets, transpose and its offsets: the arguments of ops that sum over edges."""
        return self.senders_E, self.receivers_E, self.receiver_offsets, self.transpose_E, self.sender_offsets

    @staticmethod
    def from_edges(senders_E: Tensor, receivers_E: Tensor, shifts_E3: Tensor, num_atoms: int, cutoff: float) -> "Graph":
        """A graph from edges in any order; the order of edges into one receiver is made unique by sorting."""
        order = _unique_order(senders_E, receivers_E, shifts_E3, num_atoms)
        return Graph.from_sorted(senders_E[order], receivers_E[order], shifts_E3[order], num_atoms, cutoff)

    @staticmethod
    def from_sorted(senders_E: Tensor, receivers_E: Tensor, shifts_E3: Tensor, num_atoms: int, cutoff: float) -> "Graph":
        """A graph from edges whose receivers already ascend."""
        return Graph(
            senders_E=senders_E,
            receivers_E=receivers_E,
            shifts_E3=shifts_E3.to(torch.int32),
            receiver_offsets=_row_offsets(receivers_E, num_atoms),
            transpose_E=torch.argsort(senders_E, stable=True),
            sender_offsets=_row_offsets(senders_E, num_atoms),
            num_edges=int(senders_E.shape[0]),
            cutoff=cutoff,
        )

    def select(self, keep_E: Tensor) -> "Graph":
        """The graph with only the edges where ``keep_E`` (E,) bool is true, order kept; nothing is sorted again."""
        assert self.num_edges == self.capacity, "edges are selected before padding"
        kept = torch.cat([keep_E.new_zeros(1, dtype=torch.int64), keep_E.cumsum(0)])
        transpose_E = self.transpose_E[keep_E[self.transpose_E]]
        senders_E = self.senders_E[keep_E]
        # the transpose lists edges by sender, so the offsets by sender count the kept ones in that order
        kept_by_sender = torch.cat([kept[:1], keep_E[self.transpose_E].cumsum(0)])
        return Graph(
            senders_E=senders_E,
            receivers_E=self.receivers_E[keep_E],
            shifts_E3=self.shifts_E3[keep_E],
            receiver_offsets=kept[self.receiver_offsets],
            transpose_E=kept[transpose_E],
            sender_offsets=kept_by_sender[self.sender_offsets],
            num_edges=int(senders_E.shape[0]),
            cutoff=self.cutoff,
        )

    def padded(self, capacity: int) -> "Graph":
        """The same graph with room for ``capacity`` edges; the new ones contribute exactly nothing.

        Padding edges run from the last atom to itself, so that receivers still ascend; ``edge_vectors``
        gives them a length of the cutoff. Row offsets cover the real edges only.
        """
        missing = capacity - self.capacity
        if missing < 0:
            raise ValueError(f"Capacity {capacity} is below the {self.capacity} edges of the graph.")
        last = self.receiver_offsets.shape[0] - 2
        if missing and last < 0:
            raise ValueError("A graph without atoms cannot be padded.")

        def extend(edges: Tensor, value: int) -> Tensor:
            return torch.cat([edges, edges.new_full((missing, *edges.shape[1:]), value)])

        extra = torch.arange(self.capacity, capacity, device=self.transpose_E.device)
        return replace(
            self,
            senders_E=extend(self.senders_E, last),
            receivers_E=extend(self.receivers_E, last),
            shifts_E3=extend(self.shifts_E3, 0),
            transpose_E=torch.cat([self.transpose_E, extra]),
        )

    def trimmed(self) -> "Graph":
        """The same graph without its padding; waits for the device to say how many edges are real."""
        real = int(self.receiver_offsets[-1])
        names = ("senders_E", "receivers_E", "shifts_E3", "transpose_E")
        return replace(self, **{name: getattr(self, name)[:real] for name in names}, num_edges=real)


def _unique_order(senders_E: Tensor, receivers_E: Tensor, shifts_E3: Tensor, num_atoms: int) -> Tensor:
    """(E,) int64, the order by receiver, then sender, then shift; a ValueError where these do not fit into 32 bits."""
    if senders_E.shape[0] == 0:
        return torch.zeros_like(senders_E)
    shifts_E3 = shifts_E3.long()  # differences of two need more bits
    low, high = torch.stack([shifts_E3.amin(0), shifts_E3.amax(0)]).tolist()
    if max(*high, *(-shift for shift in low)) >= 2**31:
        raise ValueError("Neighbours are more than 2^31 cells apart as their positions are given: wrap the positions into the cell.")
    spans = [last - first + 1 for first, last in zip(low, high, strict=True)]
    if num_atoms**2 * spans[0] * spans[1] * spans[2] < 2**63:  # one number per edge: one sort instead of five
        key_E = receivers_E * num_atoms + senders_E
        for axis, span in enumerate(spans):
            key_E = key_E * span + (shifts_E3[:, axis] - low[axis])
        return torch.argsort(key_E, stable=True)
    order = torch.arange(senders_E.shape[0], device=senders_E.device)
    for key_E in (shifts_E3[:, 2], shifts_E3[:, 1], shifts_E3[:, 0], senders_E, receivers_E):
        order = order[torch.argsort(key_E[order], stable=True)]
    return order


def _row_offsets(rows_E: Tensor, num_rows: int) -> Tensor:
    counts = torch.bincount(rows_E, minlength=num_rows)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def displacements(batch: Batch, senders_E: Tensor, receivers_E: Tensor, shifts_E3: Tensor) -> Tensor:
    """(E, 3) float64, Angstrom, from sender to receiver; see ``kernels.reference.neighbor_list``."""
    return neighbor_list.displacements(batch.positions_N3, batch.cell_B33, batch.system_N, senders_E, receivers_E, shifts_E3)


def edge_vectors(batch: Batch, graph: Graph) -> Tensor:
    """(E, 3) float64, Angstrom, from sender to receiver; padding edges get (cutoff, 0, 0)."""
    # How many edges are real is read on the device, so that a captured step sees the edges of today.
    edges = (graph.senders_E, graph.receivers_E, graph.shifts_E3, graph.receiver_offsets)
    return kernels.edge_vectors(batch.positions_N3, batch.cell_B33, batch.system_N, *edges, graph.cutoff)
