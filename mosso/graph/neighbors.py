"""Neighbour lists: all ordered pairs of atoms closer than the cutoff, periodic images included.

Two searches give the same graph: vesin's cell lists on the CPU, and brute force over images in plain torch on
any device. Both only propose candidates, in a wrapped and reduced copy of the system; one shared formula
in the given coordinates then decides which pairs are neighbours, so the searches cannot disagree at the
cutoff or in the order of edges.
"""

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mosso.data.structure import BadStructure, Batch
from mosso.graph.graph import Graph, displacements

Method = Literal["auto", "vesin", "brute"]
Edges = tuple[Tensor, Tensor, Tensor]  # senders (E,), receivers (E,), shifts (E, 3), all int64

# Two atoms closer than this (A) are a mistake in the input; models diverge there.
MIN_DISTANCE = 1e-3
# Cutoff (A) of a search for such atoms alone: with a shorter one vesin makes so many cells that it takes longer.
OVERLAP_CUTOFF = 1.0
# Candidates are searched this much (A) further than the cutoff, to be safe from the rounding of wrapped positions.
SEARCH_MARGIN = 1e-6
# vesin divides by zero and ends the process when atoms are about 1e10 A apart; beyond this (A) brute force takes over.
MAX_VESIN_EXTENT = 1e6
# Distances held at once by brute force: about 0.2 GB in float64 with their vectors.
MAX_BRUTE_CHUNK = 4_000_000
# Off the CPU, "auto" runs brute force up to this many distances per system and sends larger ones to vesin.
MAX_BRUTE_PAIRS = 400_000_000


def neighbor_list(batch: Batch, cutoff: float, method: Method = "auto") -> Graph:
    """All pairs of each system of ``batch`` with a distance strictly below ``cutoff``, in both directions.

    Edge vectors are ``positions[receiver] - positions[sender] + shifts @ cell``. Shifts refer to the positions as
    given, wherever the atoms lie; an atom is a neighbour of its own images, never of itself.

    Args:
        batch: the systems, on any device; the graph is on the same one.
        cutoff: Angstrom.
        method: ``vesin`` (cell lists, CPU), ``brute`` (every pair and image, any device), or ``auto``: vesin for a
            batch on the CPU and for systems too large for brute force elsewhere.

    Raises:
        BadStructure: positions that are not finite, atoms on top of each other.
        ValueError: unusable cutoff or method.
    """
    cutoff = check_cutoff(cutoff)
    if method not in ("auto", "vesin", "brute"):
        raise ValueError(f"Unknown neighbour list method {method!r}: choose auto, vesin or brute.")
    parts = [_system_edges(batch, system, cutoff + SEARCH_MARGIN, method) for system in range(batch.num_systems)]
    empty = batch.system_N.new_zeros(0)
    senders_E = torch.cat([empty, *(part[0] for part in parts)])
    receivers_E = torch.cat([empty, *(part[1] for part in parts)])
    shifts_E3 = torch.cat([empty.reshape(0, 3), *(part[2] for part in parts)])
    with torch.no_grad():
        vectors_E3 = displacements(batch, senders_E, receivers_E, shifts_E3)
    keep_E = edges_within(vectors_E3, senders_E, receivers_E, batch, cutoff)
    return Graph.from_edges(senders_E[keep_E], receivers_E[keep_E], shifts_E3[keep_E], batch.num_atoms, cutoff)


def refuse_overlaps(batch: Batch) -> None:
    """A BadStructure names atoms on top of each other, in a fraction of the time of a neighbour list; best on the CPU."""
    neighbor_list(batch, OVERLAP_CUTOFF)


def check_cutoff(cutoff: float) -> float:
    """The cutoff (A) as a float; a ValueError unless it is positive and finite."""
    if not (math.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"The cutoff is {cutoff}: give a positive, finite length in Angstrom.")
    return float(cutoff)


def edges_within(vectors_E3: Tensor, senders_E: Tensor, receivers_E: Tensor, batch: Batch, cutoff: float) -> Tensor:
    """(E,) bool, edges strictly shorter than ``cutoff``; a BadStructure names atoms on top of each other."""
    x, y, z = vectors_E3.unbind(1)
    squared_E = x * x + y * y + z * z
    if squared_E.numel():
        closest = int(squared_E.argmin())
        distance = math.sqrt(float(squared_E[closest]))
        if distance < MIN_DISTANCE:
            raise _overlap(batch, int(senders_E[closest]), int(receivers_E[closest]), distance)
    return squared_E.sqrt() < cutoff


def _overlap(batch: Batch, sender: int, receiver: int, distance: float) -> BadStructure:
    system = int(batch.system_N[sender])
    first, second = sorted(atom - batch.offsets[system] for atom in (sender, receiver))
    if first == second:
        return BadStructure(system, f"atom {first} is {distance:.1e} A from its own periodic image: check the cell and its unit.")
    remedy = "remove one of the two, or check the unit of the positions and the cell."
    return BadStructure(system, f"atoms {first} and {second} are {distance:.1e} A apart: {remedy}")


@dataclass(frozen=True, eq=False)
class _Wrapped:
    """One system in coordinates that are easy to search; translations lead back to the given ones.

    Attributes:
        positions_N3: (N, 3) float64, A, inside the reduced cell along periodic directions.
        wraps_N3: (N, 3) int64, reduced lattice vectors taken off each position.
        cell: (3, 3) float64, A, shortest vectors of the same lattice; unit vectors normal to them where not periodic.
        pbc: (3,) bool.
        transform: (3, 3) int64, ``cell = transform @ given cell`` in the periodic directions.
    """

    positions_N3: Tensor
    wraps_N3: Tensor
    cell: np.ndarray
    pbc: np.ndarray
    transform: np.ndarray

    def given(self, edges: Edges) -> Edges:
        """Edges of the wrapped system with the shifts of the given one."""
        senders_E, receivers_E, shifts_E3 = edges
        shifts_E3 = shifts_E3 - self.wraps_N3[receivers_E] + self.wraps_N3[senders_E]
        # broadcast, not matmul: there is no integer matmul on GPUs
        transform_33 = torch.as_tensor(self.transform, device=shifts_E3.device)
        return senders_E, receivers_E, (shifts_E3.unsqueeze(-1) * transform_33).sum(1)

    def image_ranges(self, cutoff: float) -> list[int]:
        """How many images to each side can hold a neighbour: wrapped fractions differ by less than 1."""
        heights = 1.0 / np.linalg.norm(np.linalg.inv(self.cell), axis=0)
        return [int(cutoff / height) + 1 if periodic else 0 for height, periodic in zip(heights, self.pbc, strict=True)]


def _system_edges(batch: Batch, system: int, cutoff: float, method: Method) -> Edges:
    """Candidate edges of one system, atoms numbered as in the batch."""
    start, stop = batch.offsets[system], batch.offsets[system + 1]
    if start == stop:
        none = batch.system_N.new_zeros(0)
        return none, none, none.reshape(0, 3)
    wrapped = _wrap(batch, system)
    search = _vesin if _use_vesin(wrapped, cutoff, method) else _brute
    senders_E, receivers_E, shifts_E3 = wrapped.given(search(wrapped, cutoff))
    return senders_E + start, receivers_E + start, shifts_E3


def _wrap(batch: Batch, system: int) -> _Wrapped:
    start, stop = batch.offsets[system], batch.offsets[system + 1]
    positions_N3 = batch.positions_N3[start:stop].detach()
    finite_N = positions_N3.isfinite().all(1)
    if not bool(finite_N.all()):
        bad = int((~finite_N).nonzero()[0, 0])
        raise BadStructure(system, f"the position of atom {bad} is not finite: check the structure, or take a shorter time step.")
    pbc = batch.pbc_B3[system].cpu().numpy()
    cell, transform = reduce_lattice(batch.cell_B33[system].detach().cpu().numpy(), pbc)
    if pbc.any() and np.linalg.norm(cell[pbc], axis=1).min() < MIN_DISTANCE:
        raise _overlap(batch, start, start, float(np.linalg.norm(cell[pbc], axis=1).min()))
    cell_33 = positions_N3.new_tensor(cell)
    fractions_N3 = positions_N3 @ positions_N3.new_tensor(np.linalg.inv(cell))
    periodic_3 = torch.as_tensor(pbc, device=positions_N3.device)
    wraps_N3 = torch.where(periodic_3, fractions_N3.floor(), 0.0)
    return _Wrapped(positions_N3 - wraps_N3 @ cell_33, wraps_N3.to(torch.int64), cell, pbc, transform)


def reduce_lattice(cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) the lattice by its shortest vectors (Minkowski), rows of open directions unit vectors normal to them; (3, 3) int64 transform.

    Skewed cells have small heights and need many images; the same lattice in short vectors needs few. Results are remembered: the cell of
    a simulation is often the same in every step.
    """
    reduced, transform = _reduced(np.asarray(cell, dtype=np.float64).tobytes(), np.asarray(pbc, dtype=bool).tobytes())
    return reduced.copy(), transform.copy()


@lru_cache(maxsize=1024)
def _reduced(cell_bytes: bytes, pbc_bytes: bytes) -> tuple[np.ndarray, np.ndarray]:
    cell, pbc = np.frombuffer(cell_bytes).reshape(3, 3), np.frombuffer(pbc_bytes, dtype=bool)
    reduced, transform, unit = cell.copy(), np.eye(3, dtype=np.int64), np.eye(3, dtype=np.int64)
    periodic = np.flatnonzero(pbc)
    changed = True
    while changed:  # ends: every change makes a vector shorter, and a lattice has few short vectors
        changed = False
        for axis in periodic:
            others = [other for other in periodic if other != axis]
            # a multiple of one other vector, as in Euclid's algorithm, or one step along each
            steps = [round(float(reduced[axis] @ reduced[o] / (reduced[o] @ reduced[o]))) * unit[o] for o in others]
            steps += [np.array(signs) @ unit[others] for signs in itertools.product((-1, 0, 1), repeat=len(others)) if others]
            for step in steps:
                shorter = reduced[axis] - step[pbc] @ reduced[pbc]
                if shorter @ shorter < (1 - 1e-9) * (reduced[axis] @ reduced[axis]):
                    transform[axis] -= step @ transform
                    reduced[axis], changed = shorter, True
    normals = np.linalg.qr(reduced[pbc].T, mode="complete")[0].T[len(periodic) :] if pbc.any() else np.eye(3)
    reduced[~pbc] = normals
    return reduced, transform


def _use_vesin(wrapped: _Wrapped, cutoff: float, method: Method) -> bool:
    extent = float((wrapped.positions_N3.amax(0) - wrapped.positions_N3.amin(0)).amax())
    if method == "brute" or extent > MAX_VESIN_EXTENT:
        return False
    if method == "vesin" or wrapped.positions_N3.device.type == "cpu":
        return True
    num_images = math.prod(2 * reach + 1 for reach in wrapped.image_ranges(cutoff))
    return wrapped.positions_N3.shape[0] ** 2 * num_images > MAX_BRUTE_PAIRS


def _vesin(wrapped: _Wrapped, cutoff: float) -> Edges:
    """Candidates from cell lists on the CPU. vesin's vectors are ``points[j] - points[i] + S @ box``."""
    from vesin import NeighborList  # imports cupy where that is installed; most searches on CUDA do without

    points = wrapped.positions_N3.cpu().numpy()
    search = NeighborList(cutoff=cutoff, full_list=True)
    senders, receivers, shifts = search.compute(points, wrapped.cell, wrapped.pbc, "ijS")
    device = wrapped.positions_N3.device
    return tuple(torch.as_tensor(part.astype(np.int64), device=device) for part in (senders, receivers, shifts))  # type: ignore[return-value]


def _brute(wrapped: _Wrapped, cutoff: float) -> Edges:
    """Candidates from every pair in every image, a bounded number of distances at a time."""
    positions_N3 = wrapped.positions_N3
    num_atoms, device = positions_N3.shape[0], positions_N3.device
    ranges = [torch.arange(-reach, reach + 1, device=device) for reach in wrapped.image_ranges(cutoff)]
    images_I3 = torch.cartesian_prod(*ranges)
    translations_I3 = images_I3.to(positions_N3.dtype) @ positions_N3.new_tensor(wrapped.cell)
    rows = max(1, MAX_BRUTE_CHUNK // num_atoms)
    layers = max(1, MAX_BRUTE_CHUNK // (num_atoms * min(rows, num_atoms)))
    found: list[Edges] = []
    for row, layer in itertools.product(range(0, num_atoms, rows), range(0, len(images_I3), layers)):
        pairs_RN3 = positions_N3[row : row + rows, None] - positions_N3
        squared_IRN = (pairs_RN3 + translations_I3[layer : layer + layers, None, None]).square().sum(-1)
        image_E, receivers_E, senders_E = (squared_IRN < cutoff**2).nonzero(as_tuple=True)
        shifts_E3, receivers_E = images_I3[image_E + layer], receivers_E + row
        other_E = (senders_E != receivers_E) | (shifts_E3 != 0).any(1)
        found.append((senders_E[other_E], receivers_E[other_E], shifts_E3[other_E]))
    return tuple(torch.cat(part) for part in zip(*found, strict=True))  # type: ignore[return-value]
