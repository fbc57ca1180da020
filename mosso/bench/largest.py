"""The largest water box that fits on one device: energy and forces of a periodic box of whole cells."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from mosso.bench import measure
from mosso.bench.cases import Repeats, repeated, water
from mosso.bench.problems import repeated_graph
from mosso.bench.variants import Runner
from mosso.graph.neighbors import neighbor_list

CELL = water(8)  # 1536 atoms


def boxes() -> Iterator[Repeats]:
    """Nearly cubic boxes, growing."""
    for n in itertools.count(1):
        yield from ((n, n, n), (n, n, n + 1), (n, n + 1, n + 1))


def search(fits: Callable[[Repeats], dict[str, Any] | None], share_wanted: float = 0.8, limit: int = 45) -> dict[str, Any] | None:
    """The row of the largest box for which ``fits`` returns one; None means out of memory.

    The first boxes tell how memory grows; the search jumps to where that predicts ``share_wanted`` of what there is and walks on
    from there. A row has ``atoms`` and ``share``, of the memory there is.
    """
    shapes = list(itertools.islice(boxes(), limit))
    small, medium = fits(shapes[1]), fits(shapes[4])
    if small is None or medium is None:
        return small
    slope = (medium["share"] - small["share"]) / (medium["atoms"] - small["atoms"])
    cell_atoms = medium["atoms"] / math.prod(shapes[4])
    wanted = (share_wanted - medium["share"]) / max(slope, 1e-12) + medium["atoms"]
    at = max((i for i, shape in enumerate(shapes) if math.prod(shape) * cell_atoms <= wanted), default=4)
    found, step = fits(shapes[at]), 1
    if found is None:
        step = -1
    while 4 < at + step < limit and (found is None or step == 1):
        at += step
        row = fits(shapes[at])
        if row is None and step == 1:
            break
        found = row
    return found or medium


def evaluate_box(runner: Runner, repeats: Repeats) -> dict[str, Any] | None:
    """Energy and forces of a box: atoms, milliseconds of the second call, peak memory; None when memory runs out."""
    device = runner.device
    measure.start_memory(device)
    try:
        batch = runner.batch([repeated(CELL, repeats)])
        graph = repeated_graph(neighbor_list(runner.batch([CELL]), runner.cutoff), repeats)
        output = runner.evaluate(batch, graph)
        assert output.forces is not None
        if not bool(torch.isfinite(output.forces).all()):
            raise ValueError(f"Forces of {batch.num_atoms} atoms are not finite.")
        ms = measure.timed(lambda: runner.evaluate(batch, graph), device)
    except torch.cuda.OutOfMemoryError:
        return None
    peak = measure.peak_memory(device)
    total = torch.cuda.get_device_properties(device).total_memory / 1e9
    return {"atoms": batch.num_atoms, "edges": graph.num_edges, "ms": ms, **peak, "share": peak["peak_GB"] / total}
