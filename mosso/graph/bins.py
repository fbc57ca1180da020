"""How the atoms of a batch are sorted into bins for the search on the device: planned once, on the host."""

import math
from typing import Literal

import numpy as np
import torch

from mosso.data.structure import Batch
from mosso.graph.neighbors import reduce_lattice
from mosso.kernels.reference.neighbor_list import Bins

SearchMethod = Literal["auto", "brute", "cells"]

# "auto" sorts atoms into bins when a system has more atoms than this: between 216 and 648 on an H200 (docs/log.md).
MAX_BRUTE_ATOMS = 400
# Cells may shrink to this share of their height before the search would have to visit more bins than planned.
SMALLEST_SHARE = 0.7


def plan_bins(batch: Batch, reach: float, method: SearchMethod = "auto") -> Bins:
    """Bins at least ``reach`` (A) wide where a system has room for them, one per system for brute force."""
    if method not in ("auto", "brute", "cells"):
        raise ValueError(f"Unknown search {method!r}: choose auto, brute or cells.")
    largest = max((stop - start for start, stop in zip(batch.offsets, batch.offsets[1:], strict=False)), default=0)
    brute = method == "brute" or (method == "auto" and largest <= MAX_BRUTE_ATOMS)
    cells, pbc = batch.cell_B33.detach().cpu().numpy(), batch.pbc_B3.cpu().numpy()
    lattices = [reduce_lattice(cell, periodic) for cell, periodic in zip(cells, pbc, strict=True)]
    reduced = np.array([lattice for lattice, _ in lattices]).reshape(-1, 3, 3)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(reduced), axis=1)
    counts = np.ones_like(pbc, dtype=np.int64)
    if not brute:
        counts = np.array([_bin_counts(batch, system, reduced[system], heights[system], reach) for system in range(len(pbc))])
    spans = np.where(pbc, np.floor(2 * reach * counts / (SMALLEST_SHARE * heights)) + 2, counts)
    ends = np.cumsum(counts.prod(1))
    device, int32 = batch.positions_N3.device, torch.int32
    return Bins(
        transform_B33=batch.cell_B33.new_tensor(np.array([transform for _, transform in lattices]).reshape(-1, 3, 3)),
        normals_B33=batch.cell_B33.new_tensor(reduced),
        periodic_B3=batch.pbc_B3.clone(),
        counts_B3=torch.as_tensor(counts, dtype=int32, device=device),
        spans_B3=torch.as_tensor(spans, dtype=int32, device=device),
        first_B=torch.as_tensor(ends - counts.prod(1), dtype=int32, device=device),
        starts=torch.tensor(batch.offsets, dtype=torch.int64, device=device) if brute else None,
        total=int(ends[-1]) if len(ends) else 0,
    )


def _bin_counts(batch: Batch, system: int, reduced: np.ndarray, heights: np.ndarray, reach: float) -> list[int]:
    """Bins along each direction: at least ``reach`` (A) wide, and no more of them than atoms."""
    positions = batch.positions_N3[batch.offsets[system] : batch.offsets[system + 1]].detach().cpu().numpy()
    if len(positions) == 0:
        return [1, 1, 1]
    extents = np.nan_to_num(np.ptp(positions @ np.linalg.inv(reduced), axis=0))
    periodic = batch.pbc_B3[system].tolist()
    counts = [
        max(1, math.floor(height / reach) if closed else math.ceil(extent / reach))
        for height, extent, closed in zip(heights, extents, periodic, strict=True)
    ]
    while math.prod(counts) > len(positions):
        axis = counts.index(max(counts))
        counts[axis] = (counts[axis] + 1) // 2
    return counts
