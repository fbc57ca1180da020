"""Tasks that have the machine to themselves: start-up, and the largest box that fits."""

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mosso.bench.cases import Repeats, displaced
from mosso.bench.checks import Truth, read_answer
from mosso.bench.comparison import failure, judged, renamed
from mosso.bench.competitor import Contestant
from mosso.bench.matrix import Case
from mosso.bench.systems import water_box
from mosso.bench.truths import Inputs
from mosso.bench.workers import WorkerError

# Neighbouring boxes differ by less than this in their number of molecules, from MIN_MOLECULES on.
RESOLUTION, FINENESS = 1.1, 1.04
MIN_MOLECULES, MAX_MOLECULES = 64, 1_000_000
CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH", "TORCH_EXTENSIONS_DIR")


def startup(case: Case, contestant: Contestant, inputs: Inputs, truth: Truth | str, folder: Path) -> dict[str, Any]:
    """Fields of a fresh process up to its first result; nothing that was compiled before is found. Then of one more, which finds it."""
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        out, variables = Path(empty, "answer.npz"), {name: str(Path(empty, name)) for name in CACHES}
        fresh, again = (
            Contestant(contestant.package, contestant.backend, contestant.place, contestant.arguments, variables) for _ in range(2)
        )
        try:
            reply, seconds = _first_result(fresh, inputs, out)
            fields = judged(fresh, truth, case, out)
            if "status" in fields:
                return fields
            fresh.close()
            _, seconds_again = _first_result(again, inputs, out)
        except WorkerError as error:
            return failure(error)
        finally:
            fresh.close()
            again.close()
            contestant.loaded, contestant.described, contestant.start_s = fresh.loaded, fresh.described, fresh.start_s
    again_s = (again.start_s or 0.0) + again.loaded.get("seconds", 0.0) + seconds_again
    return fields | {"status": "ok", "atoms": reply["atoms"], "edges": reply["edges"], "first_call_s": seconds, "again_s": again_s}


def _first_result(fresh: Contestant, inputs: Inputs, out: Path) -> tuple[dict[str, Any], float]:
    """What a process says of the atoms, and the seconds of its first evaluation."""
    reply = fresh.ask("prepare", inputs=str(inputs.path), stress=False)
    return reply, fresh.ask("answer", out=str(out), with_list=fresh.list_inside)["seconds"]


def boxes(most: int = MAX_MOLECULES) -> list[Repeats]:
    """Numbers of molecules along the sides of nearly cubic boxes, growing in steps of less than ``RESOLUTION``."""
    sides = range(4, math.ceil(most ** (1 / 3)) + 1)
    shapes = sorted(((a, b, c) for a in sides for b in sides if a <= b for c in sides if b <= c <= 2 * a), key=math.prod)
    kept: list[Repeats] = []
    for shape in shapes:
        if math.prod(shape) <= most and (not kept or math.prod(shape) >= FINENESS * math.prod(kept[-1])):
            kept.append(shape)
    return kept


def search(shapes: Sequence[Repeats], fits: Callable[[Repeats], bool]) -> Repeats | None:
    """The largest of ``shapes`` (growing) that fits: doubled until one does not, then bisected."""
    good, bad = -1, len(shapes)
    at = 0
    while at < len(shapes) and bad == len(shapes):
        if fits(shapes[at]):
            good = at
            at = next((i for i in range(at + 1, len(shapes)) if math.prod(shapes[i]) >= 2 * math.prod(shapes[good])), len(shapes))
        else:
            bad = at
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(shapes[middle]) else (good, middle)
    return shapes[good] if good >= 0 else None


def largest(
    case: Case,
    contestant: Contestant,
    truth_of: Callable[[Inputs, Case], Truth | str],
    folder: Path,
    shapes: Sequence[Repeats] | None = None,
) -> dict[str, Any]:
    """Fields of the largest box of water whose energy and forces fit; the answer for the smallest box is checked.

    ``truth_of`` tells the truth for atoms and a case, and leaves nothing behind in memory. A box does not fit where memory runs
    out, the process ends or the time limit passes; the reason says which.
    """
    shapes = boxes() if shapes is None else shapes
    out, best, reasons = folder / "answer.npz", {}, ["the largest box tried"]

    def inputs_of(shape: Repeats) -> Inputs:
        return Inputs.write("box", [displaced(water_box(shape), seed=0)], folder)

    def fits(shape: Repeats) -> bool:
        try:
            reply = contestant.ask("prepare", inputs=str(inputs_of(shape).path), stress=False)
            contestant.ask("answer", out=str(out), with_list=contestant.list_inside)
            if not np.isfinite(read_answer(out).forces).all():
                raise WorkerError("failure", "forces are not finite")
            best.update(
                {"atoms": reply["atoms"], "edges": reply["edges"]} | renamed(contestant.ask("memory", with_list=contestant.list_inside))
            )
            contestant.release()
        except WorkerError as error:
            contestant.close()  # whatever was left in its memory
            reasons.append(f"{3 * math.prod(shape)} atoms: {failure(error)['reason']}")
            return False
        return True

    try:
        first = inputs_of(shapes[0])
        contestant.ask("prepare", inputs=str(first.path), stress=False)
        contestant.ask("answer", out=str(out), with_list=contestant.list_inside)
        fields = judged(contestant, truth_of(first, case), case, out)
        if "status" in fields:
            return fields
        search(shapes, fits)
    except WorkerError as error:
        return failure(error)
    finally:
        contestant.close()
    if not best:
        return fields | {"status": "error", "reason": reasons[-1]}
    return fields | best | {"status": "ok", "reason": f"limit: {reasons[-1]}"}
