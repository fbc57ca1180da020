"""From options to a plan, and what a plan makes of interpreters."""

import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mosso.bench import environments
from mosso.bench.environments import Interpreter
from mosso.bench.matrix import Case
from mosso.bench.rows import Hardware, Row, append_row
from mosso.bench.run import Options, Plan, plan, suite_of
from mosso.bench.summary import choices, lines, troubles
from mosso.cli.bench import bench

EXAMPLES = Path(__file__).parents[2] / "examples"


def options(tmp_path: Path, **more: object) -> Options:
    return Options(**{"out": tmp_path / "rows.jsonl", "device": "cpu", **more})


def row(**more: object) -> Row:
    fields = {
        "status": "ok", "task": "forces", "model": "mosso-xtb-s", "architecture": "MACE", "package": "mosso", "backend": "auto",
        "precision": "fp32", "system": "W24", "ms": 2.0, "hardware": Hardware(device="cpu", cpu="one"), "versions": {}, "command": "",
        "started": "",
    }  # fmt: skip
    return Row(**{**fields, **more})


def test_the_preset_of_the_machine(tmp_path: Path) -> None:
    found = plan(options(tmp_path))
    assert found.name == "cpu" and found.device == "cpu"
    assert len(found.cases) > 300


def test_options_replace_what_the_preset_says(tmp_path: Path) -> None:
    found = plan(
        options(
            tmp_path,
            preset="default",
            models=("mosso-xtb-s",),
            systems=("W24",),
            batches=(2,),
            tasks=("forces",),
            backends=("reference",),
            rounds=7,
            seconds=0.5,
        )
    )
    assert {case.group for case in found.cases} == {("mosso-xtb-s", p, "W24", "2", "forces") for p in ("fp32", "tf32")}
    assert (found.protocol.rounds, found.protocol.seconds) == (7, 0.5)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"preset": "none"}, "no preset 'none': choose of default"),
        ({"models": ("mace",)}, "no model 'mace': choose of mosso-xtb-s"),
        ({"systems": ("water",)}, "no system 'water': choose of Cu64"),
        ({"tasks": ("speed",)}, "no task 'speed': choose of forces"),
        ({"precisions": ("single",)}, "no precision 'single': choose of fp64"),
        ({"packages": ("mace",)}, "no package 'mace': choose of mosso, mace-torch"),
        ({"backends": ("quick",)}, "no backend 'quick': choose of auto"),
        ({"peers": {"mace": Path("p")}}, "no package 'mace'"),
        ({"weights": {"mace": Path("p")}}, "no model 'mace'"),
        ({"packages": ("mosso",), "models": ("nequip-oam-s",)}, "Nothing is left to measure"),
        ({"device": "tpu"}, "Unknown device"),
        ({"file": EXAMPLES / "water24.extxyz"}, "YAML|needs `cases`"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path: Path, more: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        plan(options(tmp_path, **more))
    assert "\n" not in str(error.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for more in ({"weights": {"mosso-xtb-s": tmp_path / "no.model"}}, {"structures": {"DHFR": tmp_path / "no.pdb"}}):
        with pytest.raises(FileNotFoundError, match="no\\."):
            plan(options(tmp_path, **more))


def test_rows_are_not_mixed_by_accident(tmp_path: Path) -> None:
    append_row(tmp_path / "rows.jsonl", row())
    with pytest.raises(ValueError, match="exists: give --resume"):
        plan(options(tmp_path))
    assert plan(options(tmp_path, resume=True)).done == [row()]
    (tmp_path / "rows.jsonl").write_text('{"schema_name": "mosso-bench/0"}\n')
    with pytest.raises(ValueError, match="line 1: its schema is 'mosso-bench/0'"):
        plan(options(tmp_path, resume=True))


def test_resuming_leaves_out_what_is_done_and_repeats_errors(tmp_path: Path) -> None:
    narrow = {
        "preset": "quick",
        "models": ("mosso-xtb-s",),
        "systems": ("W24", "C8"),
        "batches": (1,),
        "tasks": ("forces",),
        "precisions": ("fp32",),
    }
    with suite_of(plan(options(tmp_path, **narrow)), print) as suite:
        assert len(suite.cases) == 2
        made = [suite.row(case, None, {"status": status}, "") for case, status in zip(suite.cases, ("refused", "error"), strict=True)]
    for one in made:
        append_row(tmp_path / "rows.jsonl", one)
    with suite_of(plan(options(tmp_path, **narrow, resume=True)), print) as suite:
        assert [case.system for case in suite.cases] == [made[1].system]


def test_the_command_of_a_row_makes_that_row(tmp_path: Path) -> None:
    """Parsed by the command line itself and planned again, it is one case: this one, under the same protocol."""
    first = plan(options(tmp_path, preset="cpu", seconds=0.25, device="cpu"))
    for case in (first.cases[0], first.cases[-1], next(c for c in first.cases if c.batch > 1)):
        again = _planned(first, case, tmp_path)
        assert again.cases == [case]
        assert (again.device, again.protocol) == ("cpu", first.protocol)


def test_the_command_of_a_row_of_a_table_makes_that_row(tmp_path: Path) -> None:
    first = plan(options(tmp_path, preset="mace-table", precisions=("bf16",)))
    for case in first.cases[::20]:
        assert _planned(first, case, tmp_path).cases == [case]


def test_the_command_names_files_of_the_user(tmp_path: Path) -> None:
    weights = tmp_path / "my weights.model"
    weights.write_text("")
    first = plan(options(tmp_path, file=EXAMPLES / "bench_cases.yaml", weights={"mosso-xtb-s": weights}))
    case = next(case for case in first.cases if case.system == "ethanol")
    again = _planned(first, case, tmp_path)
    assert again.cases == [case] and again.options.weights == {"mosso-xtb-s": weights}
    other = next(case for case in first.cases if case.model == "lennard-jones")
    assert "my weights" not in first.command(other)


def _planned(first: Plan, case: Case, tmp_path: Path) -> Plan:
    found: list[Options] = []
    app = typer.Typer()
    app.command()(bench)
    words = shlex.split(first.command(case))
    assert words[:2] == ["mosso", "bench"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setattr("mosso.bench.run.plan", lambda asked: found.append(asked) or (_ for _ in ()).throw(KeyboardInterrupt))
        CliRunner().invoke(app, words[2:])
    return plan(found[0])


def test_interpreters_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def find(package: str, **arguments: object) -> Interpreter:
        asked.append(package)
        if package == "sevenn":
            raise ValueError("the wheel does not fit")
        return Interpreter(Path("python"))

    monkeypatch.setattr(environments, "find_or_build", find)
    with suite_of(plan(options(tmp_path)), print) as suite:
        for _ in range(3):
            with pytest.raises(ValueError, match="does not fit"):
                suite.place.interpreter("sevenn")
            assert suite.place.interpreter("nequip").python == Path("python")
        assert "site-packages" not in str(suite.place.interpreter("mosso").environment["PYTHONPATH"]).split(":")[0]
        folder = suite.place.folder
        assert folder.is_dir()
    assert asked.count("sevenn") == 1, "building is tried once"
    assert not folder.exists()


def test_models_of_the_user_run_where_mosso_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "find_or_build", lambda package, given, **arguments: Interpreter(given))
    with suite_of(plan(options(tmp_path, file=EXAMPLES / "bench_cases.yaml")), print) as suite:
        assert str(EXAMPLES) in suite.place.interpreter("ase").environment["PYTHONPATH"].split(":")
        assert str(EXAMPLES) not in suite.place.interpreter("mosso").environment["PYTHONPATH"].split(":")
    with suite_of(plan(options(tmp_path, file=EXAMPLES / "bench_cases.yaml", peers={"ase": Path("other")})), print) as suite:
        assert suite.place.interpreter("ase").python == Path("other")


def test_tables_put_the_fastest_first_and_say_what_went_wrong() -> None:
    rows = [
        row(backend="slow", ms=6.0, ms_low=5.9, ms_high=6.5, error_forces_relative=1e-6),
        row(backend="fast", ms=2.0),
        row(backend="wrong", ms=None, status="refused", reason="forces off by 1"),
        row(task="startup", ms=None, start_s=1.0, load_s=2.0, first_call_s=3.5),
        row(task="largest", ms=None, system="water", atoms=5000),
        row(system="Cu64", batch=16),
    ]
    found = {(line[1], line[2], line[4]): line[5:] for line in lines(rows)}
    assert [line[4] for line in lines(rows)][:2] == ["mosso, fast", "mosso, slow"]
    assert found["W24", "forces", "mosso, fast"] == ("2", "", "n/a", "1.00")
    assert found["W24", "forces", "mosso, slow"] == ("6", "5.9 - 6.5", "1.0e-06", "3.00")
    assert found["W24", "startup", "mosso, auto"][0] == "6.5 s"
    assert found["water", "largest", "mosso, auto"][0] == "5000 atoms"
    assert ("Cu64 x 16", "forces", "mosso, auto") in found
    assert troubles(rows) == [("mosso-xtb-s", "W24", "forces, fp32", "mosso, wrong", "refused: forces off by 1")]


def test_choices_name_everything() -> None:
    found = choices()
    assert {"default", "mlip-inference"} <= set(found["presets"])
    assert "DHFR" in found["systems"] and "mace-mp0-large" in found["models"]
    assert "cueq" in found["packages"]["mace-torch"] and "reference" in found["packages"]["mosso"]
