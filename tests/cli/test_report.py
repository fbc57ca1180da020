"""report."""

import json
from pathlib import Path

import pytest
from bench.page import made_up


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return made_up.write(tmp_path / "rows.jsonl", [made_up.row(), made_up.row(package="alpha", ms=3.0)])


def test_a_page(run, rows, tmp_path):
    out = tmp_path / "report.html"
    result = run("report", rows, "-o", out)
    assert result.exit_code == 0, result.output
    assert "2 rows" in result.stderr
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_table(run, rows, tmp_path):
    printed = run("report", rows, "--format", "markdown")
    assert printed.exit_code == 0, printed.output
    assert printed.stdout.startswith("| model | system |")
    out = tmp_path / "table.md"
    assert run("report", rows, "-o", out).exit_code == 0
    assert out.read_text(encoding="utf-8") == printed.stdout


def test_a_short_table(run, rows):
    printed = run("report", rows, "--format", "readme")
    assert printed.exit_code == 0, printed.output
    assert printed.stdout.startswith("| model | system | task | mosso, ms |")


def test_json(run_json, rows, tmp_path):
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(made_up.PROFILE))
    second = made_up.write(tmp_path / "second.jsonl", [made_up.row()])
    found = run_json("report", rows, second, profile, "-o", tmp_path / "report.html")
    assert found == {"out": str(tmp_path / "report.html"), "rows": 3, "sets": {"rows": 2, "second": 1}, "profiles": 1}


def test_a_profile_as_it_is_really_made(run, rows, model_file, tmp_path, monkeypatch):
    monkeypatch.setattr("mosso.bench.rates.SECONDS", 0.0)
    out, page = tmp_path / "profile.json", tmp_path / "report.html"
    made = run("profile", "--system", "W24", "--model", model_file, "--device", "cpu", "--calls", 1, "-o", out)
    assert made.exit_code == 0, made.output
    result = run("report", rows, out, "-o", page)
    assert result.exit_code == 0, result.output
    assert json.dumps(json.loads(out.read_text())["verdict"])[1:-1] in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no rows"),
        ('{"schema_name": "mosso-bench/1"\n', "line 1: not JSON"),
        ('\n{"schema_name": "mosso-bench/7"}\n', "line 2: its schema is 'mosso-bench/7'"),
        ("7\n", "line 1: its schema is None"),
    ],
)
def test_bad_rows(run, tmp_path, content, said):
    path, out = tmp_path / "rows.jsonl", tmp_path / "report.html"
    path.write_text(content)
    result = run("report", path, "-o", out)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not out.exists()


def test_where_to(run, rows, tmp_path):
    for arguments, said in (
        ((rows,), "Say where to write it"),
        ((rows, "-o", tmp_path / "report.pdf"), "the name must end in .html or .htm"),
        ((rows, "-o", tmp_path / "nowhere" / "report.html"), "does not exist"),
        ((tmp_path / "missing.jsonl", "-o", tmp_path / "report.html"), "missing.jsonl"),
    ):
        result = run("report", *arguments)
        assert result.exit_code != 0
        assert said in result.stderr
        assert "Traceback" not in result.stderr
