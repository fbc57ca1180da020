# mypy: disallow-untyped-defs=False
"""The device neighbour list in Triton: search for candidates, and the edges among them; deterministic, static shapes.

Search: atoms are wrapped into the cell and sorted into bins; one program per atom visits the bins that its sphere touches,
a first time to count and a second time to write; rows are then sorted by sender and shift. Loops over bins have
bounds computed on the device, so that a cell may change without a new plan.
Edges: one program per atom marks the candidates that are close enough, a prefix sum over atoms gives the rows, and a second
kernel writes them together with the transpose, which is the transpose of the candidates with gaps closed.

Every comparison of a length is computed without fused multiply-adds, as torch does, so that both agree at the cutoff and an
edge and its reverse are always kept together.

N atoms, B systems, C candidates (capacity), E edges (capacity).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused.launch import launch
from mosso.kernels.fused.overlap import await_inputs
from mosso.kernels.reference.neighbor_list import CANDIDATES, EDGES, MOVED, SPANS, Bins, Candidates, Edges, Report, inverse_cells

# Added (A) to the radius of the search, and twice to the range of bins, against the rounding of wrapped positions.
MARGIN = 1e-6
# Atoms that a program of the search has under way together, and candidates of a row.
SEARCH_BLOCK, ROW_BLOCK = 64, 128
# Candidates of a row that are ranked together, against how many others at a time, and programs that share a row.
RANK_BLOCK, RANK_OTHERS, RANK_PROGRAMS = 32, 8, 4

# Constants of the kernels.
_MOVED, _EDGES, _SPANS = tl.constexpr(MOVED), tl.constexpr(EDGES), tl.constexpr(SPANS)
# A packed shift: what each component is multiplied by, and what stands for zero.
_HIGH, _LOW, _ZERO = tl.constexpr(1 << 42), tl.constexpr(1 << 21), tl.constexpr(1 << 20)
# Columns of the table of systems: reduced cell, its inverse, bins per unit of coordinate, radius in bins.
_INVERSE, _SCALE, _RADIUS, _COLUMNS = tl.constexpr(9), tl.constexpr(18), tl.constexpr(21), tl.constexpr(24)


@triton.jit
def _floor_div(a, b):
    """Whole turns: the quotient rounded down, for b > 0."""
    quotient = a // b
    return tl.where(a - quotient * b < 0, quotient - 1, quotient)


@triton.jit
def _place(
    positions,
    system_N,
    systems,
    periodic,
    counts,
    first_bin,
    coordinates,
    points,
    turns,
    bins,
    num_atoms,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Coordinates in bins, positions inside the cell, reduced lattice vectors taken off, and the bin of each atom."""
    await_inputs(OVERLAPS)
    atom = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = atom < num_atoms
    system = tl.load(system_N + atom, mask=inside, other=0)
    x = tl.load(positions + atom * 3, mask=inside, other=0.0)
    y = tl.load(positions + atom * 3 + 1, mask=inside, other=0.0)
    z = tl.load(positions + atom * 3 + 2, mask=inside, other=0.0)
    row = systems + system * _COLUMNS
    px, py, pz = x, y, z
    place = tl.zeros((BLOCK,), tl.int32)
    for axis in tl.static_range(3):
        inverse = row + _INVERSE + axis
        count = tl.load(counts + system * 3 + axis, mask=inside, other=1)
        fraction = x * tl.load(inverse, mask=inside, other=0.0)
        fraction += y * tl.load(inverse + 3, mask=inside, other=0.0)
        fraction += z * tl.load(inverse + 6, mask=inside, other=0.0)
        coordinate = fraction * tl.load(row + _SCALE + axis, mask=inside, other=1.0)
        coordinate = tl.where(tl.abs(coordinate) < 1e18, coordinate, 0.0)  # one that is not finite has no neighbours anyway
        turn = tl.floor(coordinate / count)
        coordinate -= turn * count
        turn = tl.where(tl.load(periodic + system * 3 + axis, mask=inside, other=0) != 0, turn, 0.0)
        px -= turn * tl.load(row + axis * 3, mask=inside, other=0.0)
        py -= turn * tl.load(row + axis * 3 + 1, mask=inside, other=0.0)
        pz -= turn * tl.load(row + axis * 3 + 2, mask=inside, other=0.0)
        tl.store(coordinates + atom * 3 + axis, coordinate, mask=inside)
        tl.store(turns + atom * 3 + axis, turn.to(tl.int32), mask=inside)
        place = place * count + tl.minimum(tl.maximum(coordinate.to(tl.int32), 0), count - 1)
    tl.store(points + atom * 3, px, mask=inside)
    tl.store(points + atom * 3 + 1, py, mask=inside)
    tl.store(points + atom * 3 + 2, pz, mask=inside)
    tl.store(bins + atom, tl.load(first_bin + system, mask=inside, other=0) + place, mask=inside)


@triton.jit
def _bin_range(coordinates, systems, counts, spans, periodic, atom, system, flags, AXIS: tl.constexpr):
    """First and last bin along an axis that the sphere around an atom touches, how many bins there are, and periodicity."""
    here = tl.load(coordinates + atom * 3 + AXIS)
    radius = tl.load(systems + system * _COLUMNS + _RADIUS + AXIS)
    count = tl.load(counts + system * 3 + AXIS)
    closed = (tl.load(periodic + system * 3 + AXIS) != 0).to(tl.int32)
    low = tl.floor(here - radius).to(tl.int32)
    high = tl.floor(here + radius).to(tl.int32)
    last = tl.minimum(high, low + tl.load(spans + system * 3 + AXIS) - 1)
    tl.atomic_or(flags, _SPANS, mask=(last < high) & (closed != 0))
    return low, last, count, closed


@triton.jit
def _write_hits(hit, place, sender, atom, system, image_x, image_y, image_z, turns, transform, senders, shifts):
    """Candidates of one receiver with shifts that refer to the given positions and cell, packed so that they sort as numbers."""
    image_x += tl.load(turns + sender * 3, mask=hit, other=0) - tl.load(turns + atom * 3)
    image_y += tl.load(turns + sender * 3 + 1, mask=hit, other=0) - tl.load(turns + atom * 3 + 1)
    image_z += tl.load(turns + sender * 3 + 2, mask=hit, other=0) - tl.load(turns + atom * 3 + 2)
    matrix = transform + system * 9
    first = (image_x * tl.load(matrix) + image_y * tl.load(matrix + 3) + image_z * tl.load(matrix + 6)).to(tl.int64)
    second = (image_x * tl.load(matrix + 1) + image_y * tl.load(matrix + 4) + image_z * tl.load(matrix + 7)).to(tl.int64)
    third = (image_x * tl.load(matrix + 2) + image_y * tl.load(matrix + 5) + image_z * tl.load(matrix + 8)).to(tl.int64)
    packed = (first + _ZERO) * _HIGH + (second + _ZERO) * _LOW + (third + _ZERO)
    tl.store(senders + place, sender.to(tl.int32), mask=hit)
    tl.store(shifts + place, packed, mask=hit)


@triton.jit
def _search(
    order,
    starts,
    points,
    coordinates,
    turns,
    system_N,
    systems,
    periodic,
    counts,
    spans,
    first_bin,
    transform,
    radii,
    offsets,
    flags,
    found,
    senders,
    shifts,
    FILL: tl.constexpr,
    MARGIN: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Count the candidates of one atom in ``found``, or write them to its row. ``points`` are in the order of the bins."""
    await_inputs(OVERLAPS)
    slot = tl.program_id(0).to(tl.int64)
    atom = tl.load(order + slot)
    system = tl.load(system_N + atom)
    low_x, last_x, count_x, closed_x = _bin_range(coordinates, systems, counts, spans, periodic, atom, system, flags, 0)
    low_y, last_y, count_y, closed_y = _bin_range(coordinates, systems, counts, spans, periodic, atom, system, flags, 1)
    low_z, last_z, count_z, closed_z = _bin_range(coordinates, systems, counts, spans, periodic, atom, system, flags, 2)
    cell = systems + system * _COLUMNS
    xx, xy, xz = tl.load(cell), tl.load(cell + 1), tl.load(cell + 2)
    yx, yy, yz = tl.load(cell + 3), tl.load(cell + 4), tl.load(cell + 5)
    zx, zy, zz = tl.load(cell + 6), tl.load(cell + 7), tl.load(cell + 8)
    px, py, pz = tl.load(points + slot * 3), tl.load(points + slot * 3 + 1), tl.load(points + slot * 3 + 2)
    reach = tl.load(radii + 2) + MARGIN
    first_of_system = tl.load(first_bin + system)
    base, end = tl.load(offsets + atom), tl.load(offsets + atom + 1)
    number = base * 0
    for bin_x in range(low_x, last_x + 1):
        turn_x = _floor_div(bin_x, count_x)
        plane = (bin_x - turn_x * count_x) * count_y
        image_x = -turn_x * closed_x
        for bin_y in range(low_y, last_y + 1):
            turn_y = _floor_div(bin_y, count_y)
            row = first_of_system + (plane + bin_y - turn_y * count_y) * count_z
            image_y = -turn_y * closed_y
            # bins along z follow each other in memory, as far as they belong to the same image
            for turn_z in range(_floor_div(low_z, count_z), _floor_div(last_z, count_z) + 1):
                image_z = -turn_z * closed_z
                move_x = image_x * xx + image_y * yx + image_z * zx
                move_y = image_x * xy + image_y * yy + image_z * zy
                move_z = image_x * xz + image_y * yz + image_z * zz
                start = tl.load(starts + row + tl.maximum(low_z - turn_z * count_z, 0))
                stop = tl.load(starts + row + tl.minimum(last_z - turn_z * count_z, count_z - 1) + 1)
                itself = (image_x == 0) & (image_y == 0) & (image_z == 0)
                for first in range(start, stop, BLOCK):
                    other = first + tl.arange(0, BLOCK)
                    inside = other < stop
                    dx = px - tl.load(points + other * 3, mask=inside, other=0.0) + move_x
                    dy = py - tl.load(points + other * 3 + 1, mask=inside, other=0.0) + move_y
                    dz = pz - tl.load(points + other * 3 + 2, mask=inside, other=0.0) + move_z
                    hit = inside & (dx * dx + dy * dy + dz * dz < reach * reach) & ~(itself & (other == slot))
                    if FILL:
                        place = base + number + tl.cumsum(hit.to(tl.int32), 0) - 1
                        kept = hit & (place < end)
                        sender = tl.load(order + other, mask=kept, other=0)
                        images = tl.zeros((BLOCK,), tl.int32)
                        _write_hits(
                            kept,
                            place,
                            sender,
                            atom,
                            system,
                            images + image_x,
                            images + image_y,
                            images + image_z,
                            turns,
                            transform,
                            senders,
                            shifts,
                        )
                    number += tl.sum(hit.to(tl.int32), 0)
    if not FILL:
        tl.store(found + atom, number)


@triton.jit
def _sort_rows(
    offsets,
    senders,
    shifts,
    sorted_senders,
    sorted_receivers,
    sorted_shifts,
    BLOCK: tl.constexpr,
    OTHERS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Rows by sender and shift: the place of a candidate is the number of those that come before it."""
    await_inputs(OVERLAPS)
    atom = tl.program_id(0).to(tl.int64)
    start, end = tl.load(offsets + atom), tl.load(offsets + atom + 1)
    for first in range(start + tl.program_id(1) * BLOCK, end, PROGRAMS * BLOCK):
        mine = first + tl.arange(0, BLOCK)
        inside = mine < end
        sender = tl.load(senders + mine, mask=inside, other=0)
        shift = tl.load(shifts + mine, mask=inside, other=0)
        before = tl.zeros((BLOCK,), tl.int32)
        for second in range(start, end, OTHERS):
            other = second + tl.arange(0, OTHERS)
            # outside the row: behind every atom
            other_sender = tl.load(senders + other, mask=other < end, other=2147483647)[:, None]
            other_shift = tl.load(shifts + other, mask=other < end, other=0)[:, None]
            earlier = (other_sender < sender) | ((other_sender == sender) & (other_shift < shift))
            before += tl.sum(earlier.to(tl.int32), 0)
        place = start + before
        tl.store(sorted_senders + place, sender, mask=inside)
        tl.store(sorted_receivers + place, tl.zeros_like(sender) + atom.to(tl.int32), mask=inside)
        tl.store(sorted_shifts + place * 3, (shift // _HIGH - _ZERO).to(tl.int32), mask=inside)
        tl.store(sorted_shifts + place * 3 + 1, (shift // _LOW % _LOW - _ZERO).to(tl.int32), mask=inside)
        tl.store(sorted_shifts + place * 3 + 2, (shift % _LOW - _ZERO).to(tl.int32), mask=inside)


@triton.jit
def _moved(positions, built_positions, cells, built_cells, built_inverses, radii, atom, system):
    """Whether an atom moved further than ``reference.moved_too_far`` allows; true where it cannot be said."""
    cell, built, inverse = cells + system * 9, built_cells + system * 9, built_inverses + system * 9
    x = tl.load(built_positions + atom * 3)
    y = tl.load(built_positions + atom * 3 + 1)
    z = tl.load(built_positions + atom * 3 + 2)
    strain_square = x * 0.0
    moved_square = x * 0.0
    for axis in tl.static_range(3):
        change_0 = tl.load(cell + axis) - tl.load(built + axis)
        change_1 = tl.load(cell + 3 + axis) - tl.load(built + 3 + axis)
        change_2 = tl.load(cell + 6 + axis) - tl.load(built + 6 + axis)
        strain_0 = tl.load(inverse) * change_0 + tl.load(inverse + 1) * change_1 + tl.load(inverse + 2) * change_2
        strain_1 = tl.load(inverse + 3) * change_0 + tl.load(inverse + 4) * change_1 + tl.load(inverse + 5) * change_2
        strain_2 = tl.load(inverse + 6) * change_0 + tl.load(inverse + 7) * change_1 + tl.load(inverse + 8) * change_2
        strain_square += strain_0 * strain_0 + strain_1 * strain_1 + strain_2 * strain_2
        moved = tl.load(positions + atom * 3 + axis) - tl.load(built_positions + atom * 3 + axis)
        moved -= x * strain_0 + y * strain_1 + z * strain_2
        moved_square += moved * moved
    limit = 0.5 * ((1.0 - tl.sqrt(strain_square)) * tl.load(radii + 1) - tl.load(radii))
    near = tl.sqrt(moved_square) <= limit
    return near == 0


@triton.jit
def _mark(
    positions,
    cells,
    system_N,
    radii,
    offsets,
    senders,
    shifts,
    built_positions,
    built_cells,
    built_inverses,
    flags,
    places,
    found,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Number the candidates of one atom that are edges, -1 for the others; count them; and see how far the atom moved."""
    await_inputs(OVERLAPS)
    atom = tl.program_id(0).to(tl.int64)
    system = tl.load(system_N + atom)
    moved = _moved(positions, built_positions, cells, built_cells, built_inverses, radii, atom, system)
    tl.atomic_or(flags, _MOVED, mask=moved)
    cell = cells + system * 9
    cutoff = tl.load(radii)
    start, end = tl.load(offsets + atom), tl.load(offsets + atom + 1)
    number = start * 0
    for first in range(start, end, BLOCK):
        slot = first + tl.arange(0, BLOCK)
        inside = slot < end
        sender = tl.load(senders + slot, mask=inside, other=0).to(tl.int64)
        x = tl.load(shifts + slot * 3, mask=inside, other=0)
        y = tl.load(shifts + slot * 3 + 1, mask=inside, other=0)
        z = tl.load(shifts + slot * 3 + 2, mask=inside, other=0)
        # the formula of reference.displacements, term by term
        square = tl.zeros((BLOCK,), tl.float64)
        for axis in tl.static_range(3):
            move = x * tl.load(cell + axis) + y * tl.load(cell + 3 + axis) + z * tl.load(cell + 6 + axis)
            part = tl.load(positions + atom * 3 + axis) - tl.load(positions + sender * 3 + axis, mask=inside, other=0.0) + move
            square += part * part
        keep = inside & (tl.sqrt(square) < cutoff)
        place = number + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(places + slot, tl.where(keep, place, -1).to(tl.int32), mask=inside)
        number += tl.sum(keep.to(tl.int32), 0)
    tl.store(found + atom, number)


@triton.jit
def _write_edges(
    ends,
    places,
    candidate_offsets,
    candidate_senders,
    candidate_receivers,
    candidate_shifts,
    outgoing,
    senders,
    receivers,
    shifts,
    offsets,
    transpose,
    flags,
    most,
    num_atoms,
    capacity,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Edges into one atom, the transpose of those out of it, its row offset, and a share of the padding."""
    await_inputs(OVERLAPS)
    atom = tl.program_id(0).to(tl.int64)
    total = tl.load(ends + num_atoms - 1)
    limit = tl.load(ends + atom)
    fits = total <= capacity
    tl.atomic_or(flags, _EDGES, mask=(fits == 0) & (atom == 0))
    tl.atomic_max(most, total, mask=atom == 0)
    tl.store(offsets + atom + 1, tl.where(fits, limit, 0))
    base = tl.load(ends + atom - 1, mask=atom > 0, other=0)
    number = base
    start, end = tl.load(candidate_offsets + atom), tl.load(candidate_offsets + atom + 1)
    for first in range(start, end, BLOCK):
        slot = first + tl.arange(0, BLOCK)
        inside = slot < end
        place = tl.load(places + slot, mask=inside, other=-1)
        keep = (place >= 0) & fits
        edge = base + place
        tl.store(senders + edge, tl.load(candidate_senders + slot, mask=keep, other=0).to(tl.int64), mask=keep)
        tl.store(receivers + edge, tl.zeros((BLOCK,), tl.int64) + atom, mask=keep)
        for axis in tl.static_range(3):
            shift = tl.load(candidate_shifts + slot * 3 + axis, mask=keep, other=0)
            tl.store(shifts + edge * 3 + axis, shift, mask=keep)
        # rows by sender have the limits of rows by receiver, because candidates and edges come in both directions
        leaving = tl.load(outgoing + slot, mask=inside, other=0)
        place = tl.load(places + leaving, mask=inside, other=-1)
        keep = (place >= 0) & fits
        receiver = tl.load(candidate_receivers + leaving, mask=keep, other=0)
        edge = tl.load(ends + receiver - 1, mask=keep & (receiver > 0), other=0) + place
        turn = number + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(transpose + turn, edge, mask=keep & (turn < limit))  # within the row, whatever the candidates are
        number += tl.sum(keep.to(tl.int32), 0)
    last = (tl.zeros((BLOCK,), tl.int64) + num_atoms) - 1
    for first in range(tl.where(fits, total, 0) + atom * BLOCK, capacity, num_atoms * BLOCK):
        edge = first + tl.arange(0, BLOCK)
        inside = edge < capacity
        tl.store(senders + edge, last, mask=inside)
        tl.store(receivers + edge, last, mask=inside)
        for axis in tl.static_range(3):
            tl.store(shifts + edge * 3 + axis, tl.zeros((BLOCK,), tl.int32), mask=inside)
        tl.store(transpose + edge, edge, mask=inside)


def find_candidates(
    positions_N3: Tensor, cell_B33: Tensor, system_N: Tensor, bins: Bins, radii: Tensor, candidates: Candidates, report: Report
) -> None:
    """Write all pairs closer than ``radii[2]`` (A) to ``candidates``, rows by sender and shift, and report.

    Candidates that do not fit, or a search that missed bins, leave none. Lengths are compared in the positions as wrapped
    into the cell, and a hair (``MARGIN``) further, so that there may be a few more than a search in the given positions
    finds, never fewer.
    """
    num_atoms, capacity = len(system_N), len(candidates.senders_C)
    if num_atoms == 0:
        return
    systems = _table_of_systems(cell_B33, bins, radii[2])
    coordinates, points = torch.empty_like(positions_N3), torch.empty_like(positions_N3)
    turns, bin_N = system_N.new_empty(num_atoms, 3, dtype=torch.int32), system_N.new_empty(num_atoms, dtype=torch.int32)
    tables = (systems, bins.periodic_B3, bins.counts_B3)
    blocks = triton.cdiv(num_atoms, ROW_BLOCK)
    out = (coordinates, points, turns, bin_N)
    _launch(_place, (blocks,), positions_N3, system_N, *tables, bins.first_B, *out, num_atoms, BLOCK=ROW_BLOCK)
    order_N, starts = _sorted_into_bins(bin_N, bins)
    geometry = (order_N, starts, points[order_N], coordinates, turns, system_N, *tables, bins.spans_B3, bins.first_B)
    arguments = (*geometry, bins.transform_B33, radii, candidates.offsets, report.flags)
    found_N = torch.empty_like(system_N)
    unsorted = (torch.empty_like(candidates.senders_C), system_N.new_empty(capacity))
    cut = {"MARGIN": MARGIN, "BLOCK": SEARCH_BLOCK}
    _launch(_search, (num_atoms,), *arguments, found_N, *unsorted, FILL=False, **cut)
    ends_N = found_N.cumsum(0)
    fits = ends_N[-1] <= capacity
    all_seen = (report.flags[0] & SPANS) == 0
    candidates.offsets[1:].copy_(ends_N * (fits & all_seen))
    report.add(CANDIDATES, ~fits)
    report.ask(1, ends_N[-1])
    _launch(_search, (num_atoms,), *arguments, found_N, *unsorted, FILL=True, **cut)
    candidates.senders_C.fill_(num_atoms - 1)
    candidates.receivers_C.fill_(num_atoms - 1)
    rows = (candidates.senders_C, candidates.receivers_C, candidates.shifts_C3)
    grid, sizes = (num_atoms, RANK_PROGRAMS), {"BLOCK": RANK_BLOCK, "OTHERS": RANK_OTHERS, "PROGRAMS": RANK_PROGRAMS}
    _launch(_sort_rows, grid, candidates.offsets, *unsorted, *rows, **sizes)
    candidates.outgoing_C.copy_(torch.sort(candidates.senders_C, stable=True).indices)


def _table_of_systems(cell_B33: Tensor, bins: Bins, reach: Tensor) -> Tensor:
    """(B, 24) float64, what the search knows of each system; see the constants for its columns."""
    cell_B33 = bins.complete((bins.transform_B33.unsqueeze(-1) * cell_B33.unsqueeze(1)).sum(2))
    inverse_B33 = inverse_cells(cell_B33)
    scale_B3 = torch.where(bins.periodic_B3, bins.counts_B3.to(reach.dtype), 1.0 / reach)
    radius_B3 = (reach + 2 * MARGIN) * torch.linalg.vector_norm(inverse_B33, dim=1) * scale_B3
    radius_B3 = radius_B3.nan_to_num(0.0).clamp(max=1e6)  # loops end whatever becomes of the cell
    return torch.cat([cell_B33.flatten(1), inverse_B33.flatten(1), scale_B3, radius_B3], 1)


def _sorted_into_bins(bin_N: Tensor, bins: Bins) -> tuple[Tensor, Tensor]:
    """(N,) int64 atoms in the order of bins, and (total + 1,) int64 where each bin starts."""
    if bins.starts is not None:
        return torch.arange(len(bin_N), device=bin_N.device), bins.starts
    sorted_N, order_N = torch.sort(bin_N, stable=True)
    return order_N, torch.searchsorted(sorted_N, torch.arange(bins.total + 1, dtype=torch.int32, device=bin_N.device))


def select_edges(
    positions_N3: Tensor,
    cell_B33: Tensor,
    system_N: Tensor,
    candidates: Candidates,
    radii: Tensor,
    edges: Edges,
    report: Report,
) -> None:
    """As ``reference.select_edges``."""
    num_atoms, capacity = len(system_N), len(edges.senders_E)
    if num_atoms == 0:
        return
    places_C, found_N = torch.empty_like(candidates.senders_C), torch.empty_like(system_N)
    pairs = (candidates.offsets, candidates.senders_C, candidates.shifts_C3)
    built = (candidates.positions_N3, candidates.cell_B33, candidates.inverse_B33)
    state = (positions_N3, cell_B33, system_N, radii)
    _launch(_mark, (num_atoms,), *state, *pairs, *built, report.flags, places_C, found_N, BLOCK=ROW_BLOCK)
    rows = (candidates.offsets, candidates.senders_C, candidates.receivers_C, candidates.shifts_C3, candidates.outgoing_C)
    sizes = (num_atoms, capacity)
    _launch(_write_edges, (num_atoms,), found_N.cumsum(0), places_C, *rows, *edges, *report, *sizes, BLOCK=ROW_BLOCK)


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """One warp per program; sums and products rounded one by one."""
    launch(kernel, grid, *arguments, num_warps=1, enable_fp_fusion=False, **constants)
