"""Files of rows and profiles: read, or refused with the place and the remedy."""

import json
from pathlib import Path

import pytest
from bench.page import made_up

from mosso.bench.page import results
from mosso.bench.page.results import labels, read_results
from mosso.bench.profile import anatomy


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return made_up.write(tmp_path / "rows.jsonl", [made_up.row(), made_up.row(package="alpha")])


def test_rows_and_profiles(file: Path, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps(made_up.PROFILE))
    found = read_results([file, profile])
    assert [row.package for row in found.sets["rows"]] == ["mosso", "alpha"]
    assert found.profiles[0].blocks[-1].host_ms is None
    assert results.SCHEMA == anatomy.SCHEMA


def test_malformed_lines_are_named(file: Path) -> None:
    with file.open("a") as more:
        more.write("\n{broken\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 4: not JSON"):
        read_results([file])


@pytest.mark.parametrize("version", ["mosso-bench/2", None])
def test_other_schemas_are_refused(file: Path, version: str | None) -> None:
    fields = made_up.row().model_dump() | {"schema_name": version}
    with file.open("a") as more:
        more.write(json.dumps(fields) + "\n")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 3: its schema is .* reads 'mosso-bench/1'"):
        read_results([file])


def test_wrong_fields_are_named(file: Path) -> None:
    with file.open("a") as more:
        more.write(json.dumps(made_up.row().model_dump() | {"ms": "fast"}) + "\n")
    with pytest.raises(ValueError, match=r"line 3: ms: .*delete the line, or measure again"):
        read_results([file])


def test_no_rows_are_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(ValueError, match=r"no rows in .*empty\.jsonl.*mosso bench"):
        read_results([empty])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "not JSON"),
        ("[]", "its schema is None"),
        (json.dumps(made_up.PROFILE | {"schema_name": "mosso-profile/9"}), "its schema is 'mosso-profile/9'"),
        (json.dumps({"schema_name": "mosso-profile/2", "blocks": [{}], "verdict": ""}), r"not a profile \(blocks\.0\.block"),
    ],
)
def test_what_is_no_profile(file: Path, tmp_path: Path, text: str, match: str) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(text)
    with pytest.raises(ValueError, match=rf"profile\.json: {match}.*leave the file out"):
        read_results([file, profile])


def test_binary_files_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "rows.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file"):
        read_results([binary])


def test_labels_tell_files_apart(tmp_path: Path) -> None:
    a, b, c = tmp_path / "a" / "rows.jsonl", tmp_path / "b" / "rows.jsonl", tmp_path / "other.jsonl"
    assert labels([a, c]) == ["rows", "other"]
    assert labels([a, b]) == ["a/rows", "b/rows"]
    with pytest.raises(ValueError, match="given twice"):
        labels([a, a])
