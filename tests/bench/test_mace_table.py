"""The command: rows that are honest about what ran, the peer's answers judged, and tables that print no time from a red gate."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mosso.bench import mace_table, peer_runs, problems, random_weights, report
from mosso.bench.variants import VARIANTS
from mosso.kernels import dispatch

# Answers one system with a wrong energy, then fails.
PEER = """
import json, pathlib, sys
import numpy as np
out = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
if sys.argv[1] == "measure":
    inputs = pathlib.Path(sys.argv[sys.argv.index("--inputs") + 1])
    atoms = len(np.load(inputs / "C8.npz")["numbers"])
    np.savez(inputs / "answer.npz", energy=np.zeros(1), forces=np.ones((atoms, 3)))
    row = {"kind": "step", "side": "mace-torch", "name": "e3nn", "precision": "fp32", "system": "C8", "stress": False, "ms": 1.0}
    out.write_text(json.dumps(row | {"atoms": atoms, "edges": 3, "answer": "answer.npz"}) + "\\n")
    sys.exit("out of luck")
"""


def run(out: Path, *arguments: str) -> list[dict[str, Any]]:
    mace_table.main(["--device", "cpu", "--models", "mace-mp0-medium", "--seconds", "0.01", "-o", str(out), *arguments])
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_rows_say_what_ran(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = dict(dispatch.ON_CUDA)
    rows = run(tmp_path / "rows.jsonl", "--systems", "C8", "--parts", "ours")
    assert len(rows) == 2 * len(VARIANTS)
    for row in rows:
        if row["name"] in ("stock reference", "auto"):
            assert row["ms_p5"] <= row["ms"] <= row["ms_p95"]
            assert 0 < row["errors"]["forces"] < 1e-4
            assert report.passes(row)
        else:
            assert "error" in row
            assert "ms" not in row
    assert before == dispatch.ON_CUDA
    assert "| mace-mp0-medium | C8 | 8 |" in capsys.readouterr().out


def test_no_time_from_a_red_gate(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "MAX_RATIO", 0.0)
    monkeypatch.setitem(problems.FLOORS, "forces", 0.0)
    rows = run(tmp_path / "rows.jsonl", "--systems", "C8", "--parts", "ours", "--variants", "stock reference")
    assert not any(report.passes(row) for row in rows)
    assert report.details(rows).count("refused") == 2
    assert report.best(rows) is None


def test_the_peer_is_judged_and_its_failure_told(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "peer.py"
    script.write_text(PEER)
    monkeypatch.setattr(mace_table, "Peer", partial(peer_runs.Peer, script=script))
    own = random_weights.checkpoint_of("mace-mp0-medium", None)
    monkeypatch.setattr(random_weights, "read_mace", lambda path: own)
    step, failure = run(
        tmp_path / "rows.jsonl", "--systems", "C8", "--parts", "peers", "--peer-path", str(tmp_path), "--peer-python", sys.executable
    )
    assert step["errors"]["energy"] == pytest.approx(1.0)
    assert not report.passes(step)
    assert failure["kind"] == "failure"


def test_dynamics(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mace_table, "MD_SYSTEM", "W24")
    monkeypatch.setattr(mace_table, "MD_STEPS", 3)
    (row,) = run(tmp_path / "rows.jsonl", "--systems", "", "--parts", "md")
    assert row["steps_per_s"] > 0
    assert row["atoms"] == 24


def test_the_largest_box_wants_a_gpu(tiny: None, tmp_path: Path) -> None:
    (row,) = run(tmp_path / "rows.jsonl", "--systems", "", "--parts", "largest", "--variants", "tabulated")
    assert "cannot run here" in row["error"]


def test_kernels_beside_limits(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for module in ("rates", "profile.anatomy"):
        monkeypatch.setattr(f"mosso.bench.{module}.SECONDS", 0.0)
    rows = run(tmp_path / "rows.jsonl", "--parts", "ours", "--profile", "C8")
    assert {row["kind"] for row in rows} == {"kernel"}
    text = capsys.readouterr().out
    for line in ("| interaction | ", "| path_linear | ", "| whole call | ", "| aten::mul | "):
        assert line in text
    mace_table.main(["--models", "mace-mp0-medium", "--limits", "C8"])
    assert "| radial moments | forward | " in capsys.readouterr().out


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mace_table.parse(["--variants", "fast"])
    assert "unknown fast: choose from stock reference" in capsys.readouterr().err


def test_shows_a_file_without_measuring(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = {"model": "m", "system": "s", "atoms": 5, "edges": 7, "precision": "fp32", "stress": False, "bars": {"forces": 1e-6}}
    rows = [
        common | {"kind": "step", "side": "mosso", "name": "fast", "ms": 2.0, "errors": {"forces": 1e-7}},
        common | {"kind": "step", "side": "mosso", "name": "wrong", "ms": 1.0, "errors": {"forces": 1e-3}},
        common | {"kind": "step", "side": "mace-torch", "name": "cueq", "ms": 30.0, "errors": {"forces": 1e-7}, "peak_GB": 1.5},
        {"kind": "largest", "side": "mosso", "name": "fast", "atoms": 1_000_000},
        {"kind": "md", "side": "mosso", "name": "fast", "system": "s", "atoms": 5, "steps_per_s": 812.0},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    mace_table.main(["--show", str(path)])
    text = capsys.readouterr().out
    assert "| m | s | 5 | 7 | 30 (cueq) | - | 2 | - |" in text
    assert "| 15 |" in text
    assert "| wrong | fp32 | refused |" in text
    assert "1000000" in text
    assert "812" in text
