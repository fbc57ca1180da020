"""The systems of the benchmark, and rows that are honest about what ran."""

import json
import sys
from pathlib import Path

import pytest

from mosso.bench import mace_steps
from mosso.bench.cases import MODELS, SYSTEMS
from mosso.data.structure import Batch
from mosso.graph.neighbors import neighbor_list
from mosso.kernels import dispatch


@pytest.mark.parametrize(
    ("name", "atoms", "edges"), [("Cu64", 64, 4992), ("C216", 216, 34128), ("C1000", 1000, 158000), ("W648", 648, None)]
)
def test_systems_are_those_of_the_peers(name: str, atoms: int, edges: int | None) -> None:
    batch = Batch.of(SYSTEMS[name]())
    assert batch.num_atoms == atoms
    if edges is not None:
        assert neighbor_list(batch, 6.0).num_edges == edges


def test_water_has_its_density_and_shape() -> None:
    (box,) = SYSTEMS["W24"]()
    assert 18.015 * 8 / 0.602214 / box.volume == pytest.approx(1.0, abs=1e-3)
    (batch,) = [Batch.of([box])]
    assert neighbor_list(batch, 1.2).num_edges == 2 * 16


def run(out: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[dict[str, object]]:
    monkeypatch.setattr(sys, "argv", ["mace_steps", "--device", "cpu", "--systems", "C8", "--repeats", "2", *arguments, "-o", str(out)])
    monkeypatch.setitem(MODELS, "mace-mp0-medium", mace_steps.replace(MODELS["mace-mp0-medium"], hidden_irreps="4x0e+4x1o"))
    mace_steps.main()
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_rows_say_what_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(dispatch.ON_CUDA)
    rows = run(tmp_path / "rows.jsonl", monkeypatch, "--variants", "reference,triton,reference+graph,fast")
    good, *refused = rows
    assert good["ms_p5"] <= good["ms"] <= good["ms_p95"]
    assert 0 < good["relative_rms_force_error"] < mace_steps.MAX_ERROR["fp32"]
    assert [("ms" in row, "error" in row) for row in refused] == [(False, True)] * 3
    assert before == dispatch.ON_CUDA


def test_no_time_from_a_red_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mace_steps.MAX_ERROR, "fp32", 0.0)
    (row,) = run(tmp_path / "rows.jsonl", monkeypatch, "--variants", "reference")
    assert "ms" not in row
    assert "not timed" in row["error"]
