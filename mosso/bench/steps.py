"""Rows of one evaluation: ours, by model, system, policy, variant and with or without stress; every row with its errors."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mosso.bench import measure
from mosso.bench.problems import Answer, Problem, error_bars, reference_answer
from mosso.bench.variants import VARIANTS
from mosso.data.structure import Batch
from mosso.engine.potential import Potential
from mosso.models.outputs import Output

Row = dict[str, Any]


class RowFile:
    """Rows appended to a file of JSON lines, each written out at once and said on the terminal."""

    def __init__(self, path: Path, common: Row) -> None:
        self._path, self._common = path, common

    def write(self, row: Row) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._common | row) + "\n")
        shown = ("kind", "side", "name", "model", "system", "stress", "ms", "peak_GB", "errors", "atoms", "steps_per_s", "error")
        print({key: row[key] for key in shown if key in row}, flush=True)


def rows_of_problem(problem: Problem, potential: Potential, variants: list[str], seconds: float) -> Iterator[Row]:
    """Per variant one row of energy and forces and one with stress, under the potential's policy."""
    common = {
        "kind": "step",
        "side": "mosso",
        "precision": potential.precision.name,
        "system": problem.name,
        "atoms": problem.batch.num_atoms,
        "edges": problem.graph.num_edges,
        "bars": error_bars(potential.precision.name, reference_answer(potential, problem.system).errors(problem.truth)),
    }
    for variant, stress in itertools.product(variants, (False, True)):
        row = common | {"name": variant, "stress": stress}
        try:
            yield row | _measured(problem, potential, variant, stress, seconds)
        except Exception as error:  # out of memory, a kernel that does not compile: the other rows go on
            yield row | {"error": reason(error)}


def reason(error: Exception) -> str:
    """The kind of an error and the first line of its message."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _measured(problem: Problem, potential: Potential, variant: str, stress: bool, seconds: float) -> Row:
    device = potential.device
    measure.start_memory(device)
    runner = VARIANTS[variant](potential)

    def evaluate(batch: Batch) -> Output:
        return runner.evaluate(batch, problem.graph, stress=stress)

    def search_and_evaluate(batch: Batch) -> Output:
        return runner.evaluate(batch, runner.graph(batch), stress=stress)

    row: Row = {"errors": Answer.of(evaluate(problem.batch)).errors(problem.truth)}
    row |= measure.single_calls(evaluate, problem.moved, device, seconds)
    row |= measure.peak_memory(device)
    row["ms_back_to_back"] = measure.back_to_back(evaluate, problem.moved, device, row["ms"], seconds)
    if not stress:
        row["ms_with_list"] = measure.single_calls(search_and_evaluate, problem.moved, device, seconds)["ms"]
    return row
