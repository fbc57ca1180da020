"""Many structures through a potential: batches sized by their edges, smaller ones where memory runs out, nothing lost."""

from collections.abc import Callable, Iterator, Sequence
from math import pi
from typing import TypeVar

import torch

from mosso.data.structure import BadStructure, Structure
from mosso.engine.potential import Potential

Result = TypeVar("Result")

# Edges of the first batch. A CPU gains nothing from larger ones; on a GPU they grow while memory lasts.
EDGES_AT_ONCE = {"cpu": 2**15, "cuda": 2**18}
MOST_EDGES = 2**23
# A batch that took less than this share of the device's memory may be followed by one of twice the size.
ROOM_TO_GROW = 0.35
_LIQUID = 0.1  # atoms per A^3, to guess the neighbours in systems without a cell


def in_batches(
    potential: Potential,
    structures: Sequence[Structure],
    work: Callable[[list[Structure]], list[Result]],
    edges_at_once: int | None = None,
) -> Iterator[list[Result]]:
    """``work`` applied to all structures, batch by batch in their order; yields the results of each batch.

    What the potential cannot evaluate is refused before any work, so that no time is spent on the structures before it.
    A batch for which the device has too little memory is cut in halves, each computed on its own, and later batches are no
    larger than the halves were. Results do not depend on the cuts.

    Args:
        potential: decides device and cutoff.
        structures: in the order in which results are wanted.
        work: a batch of structures -> one result for each of them.
        edges_at_once: estimated edges of the first batch; by default what suits the device.

    Raises:
        BadStructure: what the potential or ``work`` says of one structure, with its number among all of them; or one that alone does
            not fit into memory.
    """
    potential.check(structures)
    budget = float(edges_at_once or EDGES_AT_ONCE.get(potential.device.type, EDGES_AT_ONCE["cpu"]))
    growing = potential.device.type == "cuda" and edges_at_once is None
    first = 0
    while first < len(structures):
        batch = _cut(structures, first, budget, potential.cutoff)
        try:
            if growing:
                torch.cuda.reset_peak_memory_stats(potential.device)
            results = work(batch)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise BadStructure(first, _too_large(potential, batch[0])) from None
            budget, growing = 0.5 * sum(estimated_edges(s, potential.cutoff) for s in batch), False
        except BadStructure as error:
            raise BadStructure(first + error.number, error.reason) from error
        else:
            assert len(results) == len(batch)
            yield results
            first += len(batch)
            if growing and _used_share(potential.device) < ROOM_TO_GROW:
                budget = min(2.0 * budget, MOST_EDGES)
            continue
        # Outside the handler, which would keep the tensors of the failed batch alive.
        torch.cuda.empty_cache()


def _cut(structures: Sequence[Structure], first: int, budget: float, cutoff: float) -> list[Structure]:
    """As many structures from ``first`` on as the budget of edges holds; one at least."""
    batch: list[Structure] = []
    edges = 0.0
    for structure in structures[first:]:
        edges += estimated_edges(structure, cutoff)
        if batch and edges > budget:
            break
        batch.append(structure)
    return batch


def estimated_edges(structure: Structure, cutoff: float) -> float:
    """Atoms times neighbours at the density of the cell, or of a liquid where there is none."""
    density = len(structure) / structure.volume if structure.volume > 0 else _LIQUID
    neighbors = 4 / 3 * pi * cutoff**3 * density
    return len(structure) * (neighbors if structure.pbc.all() else min(neighbors, len(structure)))


def _used_share(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / torch.cuda.get_device_properties(device).total_memory


def _too_large(potential: Potential, structure: Structure) -> str:
    remedy = "take a GPU with more memory" + (", or evaluate under fp32" if potential.precision.name == "fp64" else "")
    return f"its {len(structure)} atoms do not fit into the memory of {potential.device} under {potential.precision.name}: {remedy}."
