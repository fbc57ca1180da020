"""The rows that are committed can be read and made again, and hold nothing of the machine that only its owner knows."""

import shlex
from pathlib import Path

import pytest

from mosso.bench.checks import TOLERANCES
from mosso.bench.rows import SCHEMA, read_rows

RESULTS = Path(__file__).parents[2] / "results"
FILES = [path for path in sorted(RESULTS.glob("*.jsonl")) if SCHEMA in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_committed_rows(path: Path) -> None:
    rows = read_rows([path])
    assert any(row.status == "ok" for row in rows)
    text = path.read_text(encoding="utf-8")
    assert not [folder for folder in ("/home/", "/root/", "/tmp/") if folder in text]
    cases = {word for row in rows for word in shlex.split(row.command or "") if word.endswith(".yaml")}
    assert not [name for name in cases if not (RESULTS.parent / name).is_file()], "a row can be made again by its command"
    for row in rows:
        if row.status == "ok" and row.error_forces_relative is not None:
            assert row.error_forces_relative <= TOLERANCES[row.precision].forces


def test_there_are_some() -> None:
    assert FILES
