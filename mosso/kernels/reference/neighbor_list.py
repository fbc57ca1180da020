"""The device neighbour list in plain torch: static shapes, no wait for the host. Specification of fused/neighbor_list.py.

What finds candidates is specified by the brute-force search of graph/neighbors.py; here is what happens between two searches.

N atoms, B systems, C candidates (capacity), E edges (capacity).
"""

from typing import NamedTuple

import torch
from torch import Tensor

# Bits of Report.flags.
MOVED, EDGES, CANDIDATES, SPANS = 1, 2, 4, 8


class Candidates(NamedTuple):
    """Pairs that may become edges, in compressed rows by receiver, and the state they were found in.

    Pairs come in both directions, so row n of ``outgoing_C`` has the limits of row n of the pairs.

    Attributes:
        senders_C, receivers_C: (C,) int32; behind the last pair they name the last atom.
        shifts_C3: (C, 3) int32, lattice translations.
        offsets: (N + 1,) int64, limits of the rows.
        outgoing_C: (C,) int32, order of the candidates by sender, stable.
        positions_N3: (N, 3) float64, A, at the search.
        cell_B33: (B, 3, 3) float64, A, at the search.
        inverse_B33: (B, 3, 3) float64, 1/A, inverse of that cell; columns of open directions are zero.
    """

    senders_C: Tensor
    receivers_C: Tensor
    shifts_C3: Tensor
    offsets: Tensor
    outgoing_C: Tensor
    positions_N3: Tensor
    cell_B33: Tensor
    inverse_B33: Tensor


class Bins(NamedTuple):
    """How the atoms of each system are sorted into bins for the search; fixed tables, valid for any cell.

    A bin is a share of the cell along periodic directions. Along open ones bins of fixed width are dealt out again and
    again, as the hours of a clock, so that atoms may fly anywhere. One bin per system is brute force.

    Attributes:
        transform_B33: (B, 3, 3) float64, ``transform @ cell`` is the same lattice in short vectors.
        normals_B33: (B, 3, 3) float64, rows of open directions: unit vectors that complete the lattice.
        periodic_B3: (B, 3) bool.
        counts_B3: (B, 3) int32, bins along each direction.
        spans_B3: (B, 3) int32, most bins that are visited along each direction.
        first_B: (B,) int32, number of the first bin of each system.
        starts: (total + 1,) int64, first atom of each bin where the order of the atoms is that of the bins; None
            where they have to be sorted.
        total: how many bins there are.
    """

    transform_B33: Tensor
    normals_B33: Tensor
    periodic_B3: Tensor
    counts_B3: Tensor
    spans_B3: Tensor
    first_B: Tensor
    starts: Tensor | None
    total: int

    def complete(self, cell_B33: Tensor) -> Tensor:
        """(B, 3, 3) the cells with the normals in place of vectors along open directions."""
        return torch.where(self.periodic_B3.unsqueeze(-1), cell_B33, self.normals_B33)


class Edges(NamedTuple):
    """Edges in compressed rows by receiver, padded to the capacity E as in ``Graph.padded``; int64 but for the shifts.

    Attributes:
        senders_E, receivers_E: (E,).
        shifts_E3: (E, 3) int32.
        offsets: (N + 1,), limits of the rows by receiver and of those by sender, which have the same lengths.
        transpose_E: (E,), edge order by sender, stable.
    """

    senders_E: Tensor
    receivers_E: Tensor
    shifts_E3: Tensor
    offsets: Tensor
    transpose_E: Tensor


class Report(NamedTuple):
    """What went wrong since it was last set to zero, and the room that was asked for.

    Attributes:
        flags: (1,) int32, bits MOVED, EDGES, CANDIDATES, SPANS.
        most: (2,) int64, largest numbers of edges and of candidates.
    """

    flags: Tensor
    most: Tensor

    def add(self, bit: int, happened: Tensor) -> None:
        """Set ``bit`` where ``happened`` () bool; it stays."""
        self.flags.bitwise_or_(happened.to(torch.int32) * bit)

    def ask(self, which: int, number: Tensor) -> None:
        """Note that there were ``number`` () int64 edges (which = 0) or candidates (1)."""
        self.most[which : which + 1].copy_(torch.maximum(self.most[which], number).reshape(1))


def displacements(
    positions_N3: Tensor, cell_B33: Tensor, system_N: Tensor, senders_E: Tensor, receivers_E: Tensor, shifts_E3: Tensor
) -> Tensor:
    """(E, 3) from sender to receiver, in the unit of the positions.

    Sums are written out, so that an edge rounds the same in a list of any length: a filtered list and a
    fresh one then agree on which edges are shorter than the cutoff, and an edge and its reverse are
    exactly opposite.
    """
    cell_E33 = cell_B33[system_N[receivers_E]]
    shifts_E31 = shifts_E3.to(cell_E33.dtype).unsqueeze(-1)
    translation_E3 = shifts_E31[:, 0] * cell_E33[:, 0] + shifts_E31[:, 1] * cell_E33[:, 1] + shifts_E31[:, 2] * cell_E33[:, 2]
    return positions_N3[receivers_E] - positions_N3[senders_E] + translation_E3


def inverse_cells(cell_B33: Tensor) -> Tensor:
    """(B, 3, 3) by cross products: torch's own inverse waits for the device to report singular matrices."""
    a, b, c = cell_B33.unbind(1)
    columns = [torch.linalg.cross(first, second) for first, second in ((b, c), (c, a), (a, b))]
    volume_B11 = (a * columns[0]).sum(1)[:, None, None]
    return torch.stack(columns, dim=2) / volume_B11


def movement(positions_N3: Tensor, cell_B33: Tensor, system_N: Tensor, candidates: Candidates, radii: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) how far (A) atoms moved since the search beside the strain of the cell, and (B,) how far they may.

    A pair that was at least radii[1] apart at the search must not come closer than radii[0].

    With h = h0 F for the cells, a vector between images is d = d0 F + u_i - u_j, where u = r - r0 F. Hence
    |d| >= s |d0| - |u_i| - |u_j| with the smallest singular value s of F, which is at least 1 - |F - 1|.
    """
    cutoff, reach = radii[0], radii[1]
    strain_B33 = candidates.inverse_B33 @ (cell_B33 - candidates.cell_B33)  # F - 1: exactly zero for the same cell
    limit_B = 0.5 * ((1.0 - torch.linalg.vector_norm(strain_B33, dim=(1, 2))) * reach - cutoff)
    affine_N3 = (candidates.positions_N3.unsqueeze(-1) * strain_B33[system_N]).sum(1)
    return torch.linalg.vector_norm(positions_N3 - candidates.positions_N3 - affine_N3, dim=1), limit_B


def moved_too_far(positions_N3: Tensor, cell_B33: Tensor, system_N: Tensor, candidates: Candidates, radii: Tensor) -> Tensor:
    """() bool, whether a pair that was at least radii[1] apart at the search may now be closer than radii[0].

    An atom whose position is not finite has moved too far.
    """
    moved_N, limit_B = movement(positions_N3, cell_B33, system_N, candidates, radii)
    return ~(moved_N <= limit_B[system_N]).all()


def select_edges(
    positions_N3: Tensor,
    cell_B33: Tensor,
    system_N: Tensor,
    candidates: Candidates,
    radii: Tensor,
    edges: Edges,
    report: Report,
) -> None:
    """Write the candidates that are now shorter than the cutoff to ``edges``, in their order, and report.

    ``radii`` (2,) or longer, A: the cutoff, and the reach; pairs that were closer than that at the search are candidates.
    Edges that do not fit make an empty graph.
    """
    senders_C, receivers_C = candidates.senders_C.long(), candidates.receivers_C.long()
    vectors_C3 = displacements(positions_N3, cell_B33, system_N, senders_C, receivers_C, candidates.shifts_C3)
    x, y, z = vectors_C3.unbind(1)
    real_C = torch.arange(len(senders_C), device=senders_C.device) < candidates.offsets[-1]
    keep_C = real_C & ((x * x + y * y + z * z).sqrt() < radii[0])
    kept = _counted(keep_C)
    room = len(edges.senders_E)
    fits = kept[-1] <= room
    # one place more than there is room: what is not an edge goes there
    place_C = torch.where(keep_C & fits, kept[:-1], room)
    last = len(system_N) - 1
    for out, values in ((edges.senders_E, senders_C), (edges.receivers_E, receivers_C)):
        out.copy_(out.new_full((room + 1,), last).scatter(0, place_C, values)[:room])
    shifts = edges.shifts_E3.new_zeros(room + 1, 3)
    edges.shifts_E3.copy_(shifts.index_copy(0, place_C, candidates.shifts_C3)[:room])
    edges.offsets.copy_(kept[candidates.offsets] * fits)
    outgoing_C = candidates.outgoing_C.long()
    turn_C = torch.where(keep_C[outgoing_C] & fits, _counted(keep_C[outgoing_C])[:-1], room)
    order = torch.arange(room + 1, device=place_C.device)
    edges.transpose_E.copy_(order.scatter(0, turn_C, place_C[outgoing_C])[:room])
    report.add(EDGES, ~fits)
    report.add(MOVED, moved_too_far(positions_N3, cell_B33, system_N, candidates, radii))
    report.ask(0, kept[-1])


def _counted(keep_C: Tensor) -> Tensor:
    """(C + 1,) int64, how many are true before each place."""
    return torch.cat([keep_C.new_zeros(1, dtype=torch.int64), keep_C.cumsum(0)])
