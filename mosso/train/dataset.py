"""Dataset: all frames and their edges as flat tensors on the device, and mini-batches cut from them by index arithmetic.

The whole data set is one big graph whose frames lie one after the other, so a mini-batch is a gather of contiguous ranges with
their indices moved. Nothing in ``assemble`` loops over frames or waits for the device.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mosso.data.structure import Batch, Structure
from mosso.graph.graph import Graph
from mosso.models.base import species_index
from mosso.train.source import Frames


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """B frames ready for a model: structures, graph and labels on one device.

    Attributes:
        batch, graph: the structures and their edges.
        species_N: (N,) int64.
        energy_B: (B,) float64, eV.
        forces_N3: (N, 3) float64, eV/A.
        num_atoms_B: (B,) float64.
        group_B: (B,) int64.
    """

    batch: Batch
    graph: Graph
    species_N: Tensor
    energy_B: Tensor
    forces_N3: Tensor
    num_atoms_B: Tensor
    group_B: Tensor


class Dataset:
    """Every frame of ``frames`` on ``device``, with the edges within ``cutoff`` (Angstrom)."""

    def __init__(self, frames: Frames, species: tuple[int, ...], cutoff: float, device: torch.device) -> None:
        self.cutoff, self.device, self.group_names = cutoff, device, frames.group_names
        self.atom_start_F = frames.offsets[:-1]
        self.num_atoms_F = frames.num_atoms_F

        def put(array: np.ndarray) -> Tensor:
            return torch.as_tensor(array).to(device)

        self._numbers_N = put(frames.numbers_N)
        self._species_N = species_index(self._numbers_N, species)
        self._positions_N3, self._forces_N3 = put(frames.positions_N3), put(frames.forces_N3)
        self._energy_F, self._group_F = put(frames.energy_F), put(frames.group_F)
        self._cell_F33, self._pbc_F3 = put(frames.cell_F33), put(frames.pbc_F3)
        self._index_edges(frames)

    def _index_edges(self, frames: Frames) -> None:
        """Edges of the whole data set, in compressed rows by receiver and, through the transpose, by sender."""
        edges = _periodic_edges(frames, self.cutoff) if frames.periodic else open_edges(self._positions_N3, frames.offsets, self.cutoff)
        senders_E, receivers_E, shifts_E3 = edges
        num_atoms = len(frames.numbers_N)
        if max(num_atoms, len(senders_E)) >= 2**31:
            raise ValueError(f"{num_atoms} atoms with {len(senders_E)} edges are too many for one device: split the data set.")
        graph = Graph.from_sorted(senders_E, receivers_E, senders_E.new_zeros((0, 3)), num_atoms, self.cutoff)
        # 32 bits at rest: edges are by far the largest part of the data set.
        self._senders_E = senders_E.to(self.device, torch.int32)
        self._receivers_E = receivers_E.to(self.device, torch.int32)
        self._transpose_E = graph.transpose_E.to(self.device, torch.int32)
        self._shifts_E3 = None if shifts_E3 is None else shifts_E3.to(self.device, torch.int32)
        self._receiver_offsets = graph.receiver_offsets.to(self.device)
        self._sender_offsets = graph.sender_offsets.to(self.device)
        edge_offsets = graph.receiver_offsets.cpu().numpy()[frames.offsets]
        self.edge_start_F, self.num_edges_F = edge_offsets[:-1], np.diff(edge_offsets)

    def __len__(self) -> int:
        return len(self.num_atoms_F)

    def assemble(self, chosen_B: np.ndarray) -> LabelledBatch:
        """The frames ``chosen_B`` (frame indices, any order) as one batch with its graph."""
        num_atoms_B, num_edges_B = self.num_atoms_F[chosen_B], self.num_edges_F[chosen_B]
        offsets, edge_offsets = _starts(num_atoms_B), _starts(num_edges_B)
        num_atoms, num_edges = int(offsets[-1]), int(edge_offsets[-1])
        atom_shifts, edge_shifts = self.atom_start_F[chosen_B] - offsets[:-1], self.edge_start_F[chosen_B] - edge_offsets[:-1]
        plan = [chosen_B, num_atoms_B, num_edges_B, atom_shifts, edge_shifts]
        # One small upload; a copy from pageable memory is staged before the call returns, so the array may go away.
        plan_device = torch.from_numpy(np.stack(plan).astype(np.int64)).to(self.device, non_blocking=True)
        frame_B, atoms_B, edges_B, atom_shift_B, edge_shift_B = plan_device.unbind(0)

        systems_B = torch.arange(len(chosen_B), device=self.device)
        system_N = torch.repeat_interleave(systems_B, atoms_B, output_size=num_atoms)
        system_E = torch.repeat_interleave(systems_B, edges_B, output_size=num_edges)
        source_N = torch.arange(num_atoms, device=self.device) + atom_shift_B[system_N]
        edge_shift_E = edge_shift_B[system_E]
        source_E = torch.arange(num_edges, device=self.device) + edge_shift_E
        atom_shift_E, edge_shift_N = atom_shift_B[system_E], edge_shift_B[system_N]
        end = edges_B.new_full((1,), num_edges)
        graph = Graph(
            senders_E=self._senders_E[source_E] - atom_shift_E,
            receivers_E=self._receivers_E[source_E] - atom_shift_E,
            shifts_E3=source_E.new_zeros((num_edges, 3), dtype=torch.int32) if self._shifts_E3 is None else self._shifts_E3[source_E],
            receiver_offsets=torch.cat([self._receiver_offsets[source_N] - edge_shift_N, end]),
            transpose_E=self._transpose_E[source_E] - edge_shift_E,
            sender_offsets=torch.cat([self._sender_offsets[source_N] - edge_shift_N, end]),
            num_edges=num_edges,
            cutoff=self.cutoff,
        )
        batch = Batch(
            numbers_N=self._numbers_N[source_N],
            positions_N3=self._positions_N3[source_N],
            cell_B33=self._cell_F33[frame_B],
            pbc_B3=self._pbc_F3[frame_B],
            system_N=system_N,
            counts_B=atoms_B,
            offsets=tuple(offsets.tolist()),
        )
        return LabelledBatch(
            batch=batch,
            graph=graph,
            species_N=self._species_N[source_N],
            energy_B=self._energy_F[frame_B],
            forces_N3=self._forces_N3[source_N],
            num_atoms_B=atoms_B.to(torch.float64),
            group_B=self._group_F[frame_B],
        )


def _starts(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


Edges = tuple[Tensor, Tensor, Tensor | None]


def open_edges(positions_N3: Tensor, offsets: np.ndarray, cutoff: float, pairs_at_once: int = 4_000_000) -> Edges:
    """Senders and receivers (E,) of all pairs closer than ``cutoff`` within each frame; no periodicity, so no shifts.

    Brute force over the pairs of many frames at once. Edges come out ordered by receiver, then sender.
    """
    num_atoms_F = np.diff(offsets)
    pair_offsets = _starts(num_atoms_F**2)
    device, found = positions_N3.device, []
    first = 0
    while first < len(num_atoms_F):
        last = max(first + 1, int(np.searchsorted(pair_offsets, pair_offsets[first] + pairs_at_once, side="right")) - 1)
        counts = torch.as_tensor(num_atoms_F[first:last]).to(device)
        starts = torch.as_tensor(offsets[first:last]).to(device)
        pair_starts = torch.as_tensor(pair_offsets[first:last] - pair_offsets[first]).to(device)
        frame_P = torch.repeat_interleave(torch.arange(last - first, device=device), counts**2)
        local_P = torch.arange(frame_P.shape[0], device=device) - pair_starts[frame_P]
        receivers_P = starts[frame_P] + local_P // counts[frame_P]
        senders_P = starts[frame_P] + local_P % counts[frame_P]
        distance2_P = (positions_N3[receivers_P] - positions_N3[senders_P]).square().sum(1)
        keep_P = (distance2_P < cutoff**2) & (receivers_P != senders_P)
        found.append((senders_P[keep_P], receivers_P[keep_P]))
        first = last
    return torch.cat([s for s, _ in found]), torch.cat([r for _, r in found]), None


def _periodic_edges(frames: Frames, cutoff: float, frames_at_once: int = 256) -> Edges:
    """The same through the package's neighbour list, on the CPU, with lattice shifts (E, 3)."""
    from mosso.graph.neighbors import neighbor_list

    found = []
    for first in range(0, len(frames), frames_at_once):
        last = min(first + frames_at_once, len(frames))
        graph = neighbor_list(Batch.of([structure(frames, f) for f in range(first, last)]), cutoff)
        start = int(frames.offsets[first])
        found.append((graph.senders_E + start, graph.receivers_E + start, graph.shifts_E3))
    senders, receivers, shifts = zip(*found, strict=True)
    return torch.cat(senders), torch.cat(receivers), torch.cat(shifts)


def structure(frames: Frames, index: int) -> Structure:
    """One frame as a Structure, without its labels."""
    atoms = slice(int(frames.offsets[index]), int(frames.offsets[index + 1]))
    return Structure(frames.numbers_N[atoms], frames.positions_N3[atoms], frames.cell_F33[index], frames.pbc_F3[index])
