"""Runs the peer's script in its own interpreter and judges its answers against our truth."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosso.bench.problems import Answer

SCRIPT = Path(__file__).parent / "peers" / "mace_torch_gpu.py"
SHAPES = {"mace-mp0-medium": "medium", "mace-mp0-large": "large"}
# Only that it computes the same function: how exact it is beyond that is the peer's affair and stands in the table.
BARS = {"energy": 1e-4, "forces": 1e-4, "stress": 1e-3}


@dataclass(frozen=True)
class Peer:
    """Where mace-torch is.

    Attributes:
        python: interpreter.
        path: folders put before everything else in its PYTHONPATH; empty for an environment of its own.
        script: what it runs.
    """

    python: str = sys.executable
    path: str = ""
    script: Path = SCRIPT

    def run(self, *arguments: str, timeout: float | None = None) -> None:
        """Runs the script; its errors come out on our stderr."""
        environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        if self.path:
            environment["PYTHONPATH"] = self.path
        subprocess.run([self.python, "-W", "ignore", str(self.script), *arguments], env=environment, check=True, timeout=timeout)

    def write_weights(self, model: str, path: Path) -> None:
        """Random weights of a shape as a ``.model`` file: what both sides then load."""
        self.run("weights", "--shape", SHAPES[model], "-o", str(path))

    def measure(
        self, model: str, weights: Path, inputs: Path, arguments: list[str], truths: Mapping[str, Answer], timeout: float
    ) -> list[dict[str, Any]]:
        """Rows of the peer, with errors against ``truths`` by system; those made before a failure or the timeout are kept."""
        out = inputs / f"peer-{model}.jsonl"
        out.unlink(missing_ok=True)
        failure = []
        try:
            self.run("measure", "--weights", str(weights), "--inputs", str(inputs), *arguments, "-o", str(out), timeout=timeout)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            failure.append({"kind": "failure", "side": "mace-torch", "name": "", "error": str(error)[-200:]})
        rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        return [judged(row, inputs, truths) | {"model": model} for row in rows + failure]


def judged(row: dict[str, Any], inputs: Path, truths: Mapping[str, Answer]) -> dict[str, Any]:
    """A row with the errors of the answer it points to."""
    if "answer" not in row:
        return row
    with np.load(inputs / row["answer"]) as arrays:
        answer = Answer(arrays["energy"], arrays["forces"], arrays.get("stress"))
    return {key: value for key, value in row.items() if key != "answer"} | {"errors": answer.errors(truths[row["system"]]), "bars": BARS}
