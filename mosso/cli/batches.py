"""How many structures are computed at once."""

from collections.abc import Iterator, Sequence
from math import pi
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mosso.data.structure import Structure
    from mosso.engine.potential import Potential

# Memory grows with edges: tens of kB each for a model of 128 channels.
EDGES_AT_ONCE = {"cpu": 2**15, "cuda": 2**18}
_LIQUID = 0.1  # atoms per A^3, to guess the neighbours in systems without a cell


def batches(structures: Sequence["Structure"], pot: "Potential") -> Iterator[list["Structure"]]:
    """Structures in order, cut where their estimated edges would pass the device's budget; a larger one goes alone."""
    budget = EDGES_AT_ONCE.get(pot.device.type, EDGES_AT_ONCE["cpu"])
    batch: list[Structure] = []
    edges = 0.0
    for structure in structures:
        new = estimated_edges(structure, pot.cutoff)
        if batch and edges + new > budget:
            yield batch
            batch, edges = [], 0.0
        batch.append(structure)
        edges += new
    if batch:
        yield batch


def estimated_edges(structure: "Structure", cutoff: float) -> float:
    """Atoms times neighbours at the density of the cell, or of a liquid where there is none."""
    density = len(structure) / structure.volume if structure.volume > 0 else _LIQUID
    neighbors = 4 / 3 * pi * cutoff**3 * density
    return len(structure) * (neighbors if structure.pbc.all() else min(neighbors, len(structure)))
