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
    """The row of the largest box, of a dozen cells or more, for which ``fits`` returns one; None means out of memory.

    The first boxes tell how memory grows; the search jumps to where that predicts ``share_wanted`` of what there is and walks on
    from there. A row has ``atoms`` and ``share``, of the memory there is.
    """
    shapes = list(itertools.islice(boxes(), limit))
    first = 4
    small, best = fits(shapes[1]), fits(shapes[first])
    if small is None or best is None:
        return small
    per_cell = (best["share"] - small["share"]) / (math.prod(shapes[first]) - math.prod(shapes[1]))
    wanted = math.prod(shapes[first]) + (share_wanted - best["share"]) / max(per_cell, 1e-12)
    at = max((i for i, shape in enumerate(shapes) if first < i and math.prod(shape) <= wanted), default=first + 1)
    row = fits(shapes[at])
    if row is None:
        smaller = (found for i in range(at - 1, first, -1) if (found := fits(shapes[i])) is not None)
        return next(smaller, best)
    while row is not None:
        best, at = row, at + 1
        row = fits(shapes[at]) if at < limit else None
    return best


def evaluate_box(runner: Runner, repeats: Repeats) -> dict[str, Any] | None:
    """Energy and forces of a box: atoms, milliseconds of the second call, peak memory; None when memory runs out."""
    device = runner.device
    if device.type != "cuda":
        raise ValueError(f"The largest box is that of a GPU, and the potential is on {device}: leave this part out.")
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
