"""Rows in files: what comes back, what is refused, and that the documentation names every field."""

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from mosso.bench.checks import TOLERANCES
from mosso.bench.matrix import TASKS, Protocol
from mosso.bench.presets import PRESETS
from mosso.bench.rows import SCHEMA, Hardware, Row, append_row, read_rows
from mosso.bench.systems import SYSTEMS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
ROW = Row(
    status="ok",
    task="forces",
    model="m",
    architecture="a",
    package="p",
    backend="b",
    precision="fp32",
    system="W24",
    ms=1.5,
    clock_MHz=(1980.0, 1755.0),
    hardware=Hardware(device="cuda", gpu="NVIDIA H200", cpu="x"),
    versions={"torch": "2"},
    command="mosso bench",
    started="2026-11-20T09:51:02+00:00",
)


def test_a_commit_for_reading() -> None:
    shown = [ROW.model_copy(update={"commit": commit}).short_commit for commit in (None, "0123456789abcdef", "0123456789abcdef-dirty")]
    assert shown == [None, "0123456789", "0123456789-dirty"]


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    other = ROW.model_copy(update={"reason": "two\nlines, and µ", "status": "error", "ms": None})
    append_row(path, ROW)
    append_row(path, other)
    path.write_text(path.read_text() + "\n")  # an empty line does no harm
    assert read_rows([path]) == [ROW, other]
    assert len(path.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        (ROW.model_dump_json()[:-40], "not JSON"),
        ("3", "its schema is None"),
        ('{"ms": 1.0}', "its schema is None"),
        (
            json.dumps({**ROW.model_dump(), "schema_name": "mosso-bench/2"}),
            "its schema is 'mosso-bench/2' and this mosso reads 'mosso-bench/1'",
        ),
        (json.dumps({**ROW.model_dump(), "status": "fine"}), "status: "),
        (json.dumps({**ROW.model_dump(), "task": "train"}), "task: "),
        (json.dumps({**ROW.model_dump(), "flops": 3}), "flops: "),
        (json.dumps({**ROW.model_dump(), "ms": "fast"}), "ms: "),
        (json.dumps({**ROW.model_dump(), "ms": float("nan")}), "ms: "),
        (json.dumps({**ROW.model_dump(), "ms": -5.0}), "ms: "),
        (json.dumps({**ROW.model_dump(), "ms": None}), "a row of forces whose status is ok has a time of a call, ms"),
        (json.dumps({**ROW.model_dump(), "status": "error"}), "a row of forces whose status is error has no time of a call, ms"),
        (json.dumps({k: v for k, v in ROW.model_dump().items() if k != "hardware"}), "hardware: "),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    append_row(path, ROW)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError) as error:
        read_rows([path])
    said = str(error.value)
    assert said.startswith(f"{path}, line 2: ") and words in said
    assert "measure again" in said and "\n" not in said


def test_the_key_tells_measurements_apart() -> None:
    assert ROW.key == ROW.model_copy(update={"ms": 9.0, "status": "error", "commit": "c"}).key
    for change in ({"backend": "c"}, {"batch": 2}, {"task": "stress"}, {"hardware": Hardware(device="cpu", cpu="y")}):
        assert ROW.key != ROW.model_copy(update=change).key


def test_numbers_that_are_none_cannot_be_written() -> None:
    with pytest.raises(ValidationError):
        Row(**{**ROW.model_dump(), "ms": float("inf")})


def test_the_documentation_names_every_field() -> None:
    section = DOCUMENT.split("## A row")[1].split("\n## ")[0]
    told = {name for line in section.splitlines() if line.startswith("|") for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert told == set(Row.model_fields)
    assert f"`{SCHEMA}`" in section


def test_the_documentation_has_the_numbers_of_the_code() -> None:
    table = DOCUMENT.split("## Whether it is right")[1].split("\n## ")[0]
    found = {
        cells[0].strip(" `"): cells[1:] for line in table.splitlines() if line.startswith("| `") for cells in [line.strip("|").split("|")]
    }
    for precision, tolerance in TOLERANCES.items():
        name, *numbers = found[precision]
        assert name.strip(" `") == tolerance.name
        assert [float(number) for number in numbers] == [tolerance.forces, tolerance.energy, tolerance.stress]
    tasks = DOCUMENT.split("## What is measured")[1].split("\n## ")[0]
    assert all(f"`{task}`" in tasks for task in TASKS)
    assert set(re.findall(r"^\| `(\w+)`", tasks, re.M)) - set(TASKS) <= {*SYSTEMS, "DHFR"}
    assert "--preset mlip-inference" in DOCUMENT and "mlip-inference" in PRESETS
    protocol = Protocol()
    words = (f"Warm-up: {protocol.warm_up} calls", f"fit in {protocol.seconds:g} s", f"up to {protocol.md_steps} steps")
    assert all(word in DOCUMENT for word in words)
    assert all(f"`{name}`" in DOCUMENT for name in Protocol.model_fields)
