"""Rows of one evaluation: ours, by model, system, policy, variant and with or without stress; every row with its errors."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mosso.bench import measure
from mosso.bench.problems import Answer, Problem, error_bars, reference_answer
from mosso.bench.variants import VARIANTS
from mosso.engine.potential import Potential

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


def rows_of_problem(problem: Problem, potential: Potential, variants: list[str], stresses: list[bool]) -> Iterator[Row]:
    """One row per variant and choice of outputs under the potential's policy."""
    bars = error_bars(reference_answer(potential, problem.system).errors(problem.truth))
    common = {
        "kind": "step",
        "side": "mosso",
        "precision": potential.precision.name,
        "system": problem.name,
        "atoms": problem.batch.num_atoms,
        "edges": problem.graph.num_edges,
        "bars": bars,
    }
    for variant in variants:
        for stress in stresses:
            row = common | {"name": variant, "stress": stress}
            try:
                yield row | _measured(problem, potential, variant, stress)
            except (RuntimeError, ValueError) as error:  # out of memory, or a variant that cannot run here
                yield row | {"error": str(error).splitlines()[0]}


def _measured(problem: Problem, potential: Potential, variant: str, stress: bool) -> Row:
    device = potential.device
    measure.start_memory(device)
    runner = VARIANTS[variant](potential)
    answer = Answer.of(runner.evaluate(problem.batch, problem.graph, stress=stress))
    row: Row = {"errors": answer.errors(problem.truth)}
    row |= measure.single_calls(lambda: runner.evaluate(problem.moved(), problem.graph, stress=stress), device)
    row |= measure.peak_memory(device)

    def with_list() -> None:
        batch = problem.moved()
        runner.evaluate(batch, runner.graph(batch), stress=stress)

    row["ms_back_to_back"] = measure.back_to_back(lambda: runner.evaluate(problem.moved(), problem.graph, stress=stress), device, row["ms"])
    if not stress:
        with_list()
        row["ms_with_list"] = min(measure.timed(with_list, device) for _ in range(3))
    return row
