"""The user's file of cases: the one of the examples, and everything that can be wrong with one."""

from pathlib import Path

import pytest

from mosso.bench.presets import read_cases

EXAMPLE = Path(__file__).parents[2] / "examples" / "bench_cases.yaml"
GOOD = "cases:\n  - models: [mosso-xtb-s]\n    systems: [W24]\n"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cases.yaml"
    path.write_text(text)
    return path


def test_the_example() -> None:
    preset, matrix = read_cases(EXAMPLE, {})
    cases = matrix.expand(preset.blocks)
    assert len(cases) == 2 * 2 * 2 * 2 + 3
    assert preset.protocol.rounds == 3 and preset.protocol.calls is None
    user = matrix.models["lennard-jones"]
    assert [c.package for c in user.competitors] == ["ase"]
    assert user.competitors[0].options == {"factory": "bench_calculator:lennard_jones"}
    assert len(matrix.systems["ethanol"].structures(2)[1]) == 9
    assert not matrix.systems["ethanol"].periodic
    assert "W648" in matrix.systems and "mace-mp0-medium" in matrix.models


def test_the_least_one_can_write(tmp_path: Path) -> None:
    preset, matrix = read_cases(written(tmp_path, GOOD), {})
    (case,) = matrix.expand(preset.blocks)
    assert (case.task, case.precision, case.batch) == ("forces", "fp32", 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cases: [", ("is not YAML", "line 1")),
        ("cases:\n  - models: [a\n    systems: b]", ("is not YAML", "line 3")),
        ("", ("the file", "needs `cases`")),
        ("cases: []", ("cases", "at least 1")),
        ("- models: [a]", ("needs `cases`",)),
        ("cases:\n  - system: [W24]\n    models: [a]", ("cases.0.system", "extra inputs")),
        ("cases:\n  - models: mosso-xtb-s", ("cases.0.models", "valid tuple")),
        (GOOD + "    tasks: [train]", ("cases.0.tasks.0", "'stress+list'")),
        (GOOD + "    precisions: [fp8]", ("cases.0.precisions.0", "'tf32'")),
        (GOOD + "    batches: [0]", ("cases.0.batches.0", "greater than or equal to 1")),
        (GOOD + "protocol: {rounds: 0}", ("protocol.rounds", "greater than or equal to 1")),
        (GOOD + "protocol: {seconds: soon}", ("protocol.seconds", "valid number")),
        (GOOD + "models:\n  - {name: mine, package: jax, factory: 'a:b'}", ("models.0.package", "'ase' or 'torch-sim'")),
        (GOOD + "models:\n  - {name: mine, package: ase, factory: a.b}", ("models.0.factory", "pattern")),
        (GOOD + "models:\n  - {name: mosso-xtb-s, package: ase, factory: 'a:b'}", ("a model mosso-xtb-s already",)),
    ],
)
def test_malformed_files_name_the_place(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError) as error:
        read_cases(path, {})
    said = str(error.value)
    assert said.startswith(str(path))
    assert all(word in said for word in words), said
    assert "\n" not in said


def test_structures_are_found_beside_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="drop.xyz"):
        read_cases(written(tmp_path, GOOD + "structures: {drop: drop.xyz}"), {})
    (tmp_path / "drop.xyz").write_text("1\n\nH 0 0 0\n1\n\nH 0 0 1\n")
    with pytest.raises(ValueError, match="holds 2 structures: give drop a file with one"):
        read_cases(tmp_path / "cases.yaml", {})


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_cases(tmp_path / "nothing.yaml", {})
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match="is not YAML"):
        read_cases(tmp_path / "binary.yaml", {})
