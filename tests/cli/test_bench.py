"""``mosso bench`` as it is typed: rows in a file, interrupted and resumed, and sentences about bad input."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from bench.contest import ADAPTER, Scene

from mosso.bench import competitor, environments, matrix
from mosso.bench.matrix import Competitor, Model
from mosso.bench.rows import read_rows

QUICK = ("--rounds", 2, "--seconds", 0.02, "--device", "cpu")


@pytest.fixture
def springs(tmp_path, monkeypatch) -> Scene:
    """A model ``spring`` in the matrix, of the package ``harmonic``."""
    scene = Scene(tmp_path)
    backends = ("good", "wrong", "dies", "waits")
    monkeypatch.setitem(matrix.MODELS, "spring", Model("spring", "Harmonic", (Competitor("harmonic", backends),)))
    monkeypatch.setitem(competitor.ADAPTERS, "harmonic", ADAPTER)
    monkeypatch.setattr(environments, "find_or_build", lambda package, **arguments: scene.interpreter(package))
    monkeypatch.chdir(tmp_path)
    return scene


def arguments(out, backends="good", systems="C8,W24", tasks="forces"):
    return ("bench", "--models", "spring", "--systems", systems, "--batches", 1, "--tasks", tasks, "--precisions", "fp32",
            "--backends", backends, "-o", out, *QUICK)  # fmt: skip


def test_rows_come_into_the_file(run, springs, tmp_path):
    result = run(*arguments("rows.jsonl", backends="good,wrong,dies", systems="C8"))
    assert result.exit_code == 0, result.output
    rows = read_rows([tmp_path / "rows.jsonl"])
    assert [(row.backend, row.status) for row in rows] == [("good", "ok"), ("wrong", "refused"), ("dies", "error")]
    assert "3 new rows in rows.jsonl" in result.stdout
    assert "Without a time" in result.stdout and "forces off by" in result.stdout
    assert rows[0].command.startswith("mosso bench --preset cpu --models spring --precisions fp32 --tasks forces --systems C8 --batches 1")


def test_json(run_json, springs):
    document = run_json(*arguments("rows.jsonl", systems="C8"))
    assert document["completed"] is True and document["kept"] == 0
    assert document["rows"][0]["schema_name"] == "mosso-bench/1"


def test_an_interrupt_keeps_the_rows_and_resume_goes_on(run, springs, tmp_path):
    (tmp_path / "red light").touch()  # the second system hangs
    rows = tmp_path / "rows.jsonl"

    def interrupt() -> None:
        while not (rows.exists() and len([e for e in springs.journal("evaluate") if e["backend"] == "waits"]) > 10):
            time.sleep(0.02)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = run(*arguments(rows, backends="waits"))
    thread.join()
    assert result.exit_code == 130, result.output
    assert "Interrupted; " in result.stderr and "1 new row" in result.stderr and "--resume" in result.stderr
    assert [row.system for row in read_rows([rows])] == ["C8"]
    (tmp_path / "red light").unlink()
    result = run(*arguments(rows, backends="waits"), "--resume")
    assert result.exit_code == 0, result.output
    assert [(row.system, row.status) for row in read_rows([rows])] == [("C8", "ok"), ("W24", "ok")]
    result = run(*arguments(rows, backends="waits"), "--resume", "--json")
    document = json.loads(result.stdout)
    assert document["rows"] == [] and document["kept"] == 2


def test_resuming_measures_errors_anew(run, springs, tmp_path):
    assert run(*arguments("rows.jsonl", backends="good,dies", systems="C8")).exit_code == 0
    assert run(*arguments("rows.jsonl", backends="good,dies", systems="C8"), "--resume").exit_code == 0
    assert [row.backend for row in read_rows([tmp_path / "rows.jsonl"])] == ["good", "dies", "dies"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--models", "spring,mace"), "There is no model 'mace': choose of mosso-xtb-s"),
        (("--systems", "Cu65"), "There is no system 'Cu65': choose of Cu64"),
        (("--preset", "fast"), "There is no preset 'fast': choose of default"),
        (("--batches", "1,two"), "--batches two: give positive whole numbers"),
        (("--batches", "0"), "--batches 0: give positive whole numbers"),
        (("--peer", "mace-torch"), "'mace-torch' is not understood: give --peer PACKAGE=PYTHON"),
        (("--weights", "spring=nothing.model"), "There is no file nothing.model"),
        (("-o", "rows.csv"), "the name must end in .jsonl"),
        (("-o", "nowhere/rows.jsonl"), "the folder nowhere does not exist"),
        (("cases.yaml",), "cases.yaml"),
    ],
)
def test_bad_input_is_one_sentence(run, springs, tmp_path, more, words):
    result = run(*arguments("rows.jsonl", systems="C8"), *more)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("Error: ") and words in line
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_file_that_is_there_is_not_written_over(run, springs, tmp_path):
    (tmp_path / "rows.jsonl").write_text("something else\n")
    result = run(*arguments("rows.jsonl"))
    assert result.exit_code == 2 and "give --resume to go on with it, or another name" in result.stderr
    result = run(*arguments("rows.jsonl"), "--resume")
    assert result.exit_code == 2 and "line 1: not JSON" in result.stderr
    assert (tmp_path / "rows.jsonl").read_text() == "something else\n"


def test_the_lists(run, run_json):
    result = run("bench", "--list")
    assert result.exit_code == 0
    assert all(word in result.stdout for word in ("mlip-inference", "mace-mp0-medium", "W648", "orb-models"))
    assert set(run_json("bench", "--list")) == {"presets", "models", "systems", "packages"}


@pytest.mark.slow
def test_the_quick_preset_as_it_stands(run, tmp_path):
    result = run("bench", "--preset", "quick", "-o", tmp_path / "rows.jsonl", "--device", "cpu")
    assert result.exit_code == 0, result.output
    rows = read_rows([tmp_path / "rows.jsonl"])
    assert len(rows) == 15 and {row.status for row in rows} == {"ok"}
    assert {row.task for row in rows} == {"forces", "stress", "stress+list", "list", "md", "md-ase", "startup"}


@pytest.mark.slow
def test_the_example_of_a_file_of_cases(run, tmp_path):
    cases = Path(__file__).parents[2] / "examples" / "bench_cases.yaml"
    result = run("bench", cases, "-o", tmp_path / "rows.jsonl", "--device", "cpu")
    assert result.exit_code == 0, result.output
    rows = read_rows([tmp_path / "rows.jsonl"])
    assert len(rows) == 19 and {row.status for row in rows} == {"ok"}, [(row.model, row.task, row.reason) for row in rows]
