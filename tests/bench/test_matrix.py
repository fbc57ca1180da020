"""Names to cases: the products of blocks, and what is said of names that do not exist."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from mosso.bench import competitor
from mosso.bench.cases import TARGETS
from mosso.bench.matrix import MATERIALS, MODELS, Block, Matrix
from mosso.bench.presets import PRESETS, SMALL, matrix_with, named, narrowed
from mosso.bench.systems import DHFR

MATRIX = Matrix()


def test_a_block_is_a_product() -> None:
    two = ("mosso-xtb-s", "mace-mp0-medium")
    block = Block(models=two, systems=("C8", "W24"), batches=(1, 4), tasks=("forces", "stress"), precisions=("fp64", "fp32"))
    cases = MATRIX.expand([block, block])
    backends = {name: sum(len(c.backends) for c in MODELS[name].competitors) for name in block.models}
    assert len(cases) == len(set(cases)) == 16 * sum(backends.values()), "each once"
    order = [case.group[:2] for case in cases]
    assert order == sorted(order, key=order.index), "models and precisions outermost"


def test_precisions_that_a_model_is_not_offered_in_are_left_out() -> None:
    cases = MATRIX.expand([Block(models=("mosso-xtb-s", "orb-v3-direct-20"), systems=("C8",), precisions=("fp32", "bf16"))])
    assert {(case.model, case.precision) for case in cases} == {
        ("mosso-xtb-s", "fp32"),
        ("mosso-xtb-s", "bf16"),
        ("orb-v3-direct-20", "fp32"),
    }


def test_further_backends_are_measured_where_they_are_named() -> None:
    def found(**narrow: tuple[str, ...]) -> list[str]:
        return [case.backend for case in MATRIX.expand([Block(models=("mosso-xtb-s",), systems=("C8",), **narrow)])]

    assert found() == ["auto"]
    assert found(backends=("auto", "reference")) == ["auto", "reference"]
    assert found(packages=("mace-torch",)) == []


def test_the_largest_box_has_one_system() -> None:
    (case,) = MATRIX.expand([Block(models=("mosso-xtb-s",), systems=("C8", "W24"), batches=(1, 2), tasks=("largest",))])
    assert (case.system, case.batch) == ("water", 1)


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"models": ("mace",)}, ("no model 'mace'", "mace-mp0-medium", "orb-v3-direct-20")),
        ({"systems": ("Cu65",)}, ("no system 'Cu65'", "Cu64", "W648")),
        ({"packages": ("mace",)}, ("no package 'mace'", "mace-torch", "sevenn")),
        ({"backends": ("hip",)}, ("no backend 'hip'", "auto", "e3nn", "reference")),
    ],
)
def test_unknown_names_list_what_exists(block: dict[str, tuple[str, ...]], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError) as error:
        MATRIX.expand([Block(**{"models": ("mosso-xtb-s",), "systems": ("C8",), **block})])
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(("axis", "value", "word"), [("tasks", "train", "stress+list"), ("precisions", "fp8", "tf32")])
def test_unknown_tasks_and_precisions_list_what_exists(axis: str, value: str, word: str) -> None:
    with pytest.raises(ValueError, match=f"no {axis[:-1]} '{value}'") as error:
        narrowed(PRESETS["quick"], MATRIX, **{axis: (value,)})
    assert word in str(error.value)


def test_blocks_cannot_be_empty() -> None:
    for axis in ("models", "systems", "batches", "tasks", "precisions"):
        with pytest.raises(ValidationError):
            Block(**{"models": ("mosso-xtb-s",), axis: ()})
    with pytest.raises(ValidationError):
        Block(models=("mosso-xtb-s",), batches=(0,))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_name_what_exists(name: str) -> None:
    assert MATRIX.expand(narrowed(PRESETS[name], MATRIX))


def test_presets_by_machine() -> None:
    assert named(None, has_gpu=True)[0] == "default"
    assert named(None, has_gpu=False)[0] == "cpu"
    with pytest.raises(ValueError, match="no preset 'fast': choose of default, cpu, mlip-inference"):
        named("fast", has_gpu=True)


def test_the_protocol_of_the_page() -> None:
    preset = PRESETS["mlip-inference"]
    assert (preset.protocol.warm_up, preset.protocol.calls) == (10, 100)
    cases = MATRIX.expand(narrowed(preset, MATRIX))
    assert {(case.system, case.batch) for case in cases} == {("Cu64", 1), ("Cu64", 16)}


def test_the_small_preset_has_every_family() -> None:
    assert {MODELS[name].architecture for name in SMALL} == {model.architecture for model in MODELS.values()}
    assert "largest" not in {case.task for case in MATRIX.expand(narrowed(PRESETS["default"], MATRIX))}


def test_axes_replace_those_of_a_preset() -> None:
    blocks = narrowed(PRESETS["cpu"], MATRIX, models=("mosso-xtb-s",), tasks=("list",), systems=None, batches=())
    assert {case.model for case in MATRIX.expand(blocks)} == {"mosso-xtb-s"}
    assert {case.task for case in MATRIX.expand(blocks)} == {"list"}
    assert {case.system for case in MATRIX.expand(blocks)} == {"C8", "W24", "chain25", "Cu64"}


def table(**axes: tuple[str | int, ...]) -> set[tuple[str, str, int, str, str]]:
    cases = MATRIX.expand(narrowed(PRESETS["mace-table"], MATRIX, **axes))
    return {(case.model, case.system, case.batch, case.task, case.backend) for case in cases}


def test_the_table_of_mace_has_its_rows() -> None:
    found = table()
    assert {case[:4] for case in found} >= set(TARGETS), "every time aimed at is measured"
    medium = "mace-mp0-medium"
    backends = {size: {case[4] for case in found if case[:2] == (medium, size)} for size in ("Cu64", "W3000", "W24000", "W98304")}
    assert backends["Cu64"] == backends["W3000"] == {"auto", "stock", "e3nn", "cueq", "cueq-graphs"}
    assert backends["W24000"] == {"auto", "stock", "cueq", "cueq-graphs"}
    assert backends["W98304"] == {"auto", "stock", "cueq", "cueq-compiled"}
    dynamics = {case[3:] for case in found if case[1] == "W648"}
    assert dynamics == {(task, backend) for task in ("md", "md-ase") for backend in ("auto", "e3nn", "cueq", "cueq-graphs", "oeq")}
    assert {case[4] for case in found if case[3] == "largest"} == {"eager", "cueq"}


def test_options_choose_among_the_rows_of_a_table() -> None:
    assert table(systems=("C1000",), tasks=("stress",)) == {case for case in table() if case[1] == "C1000" and case[3] == "stress"}
    assert {case[:4] for case in table(models=("mace-mp0-large",), systems=("W24000",), backends=("oeq", "auto"))} == {
        ("mace-mp0-large", "W24000", 1, task) for task in ("forces", "stress")
    }
    assert {case[2] for case in table(systems=("Cu64",), batches=(16,))} == {16}
    parts = [table(systems=(system,)) for system in ("Cu64", "C216", "C1000", "W3000", "W24000", "W98304", "W648")]
    assert set().union(*parts, table(tasks=("largest",))) == table(), "a table can be measured in parts"


@pytest.mark.parametrize(("axis", "value", "words"), [("systems", "C8", "no system 'C8': choose of Cu64"), ("batches", 2, "batch of '2'")])
def test_what_is_not_in_a_table_is_not_measured(axis: str, value: str | int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        table(**{axis: (value,)})


def test_the_protein_needs_its_file(tmp_path: Path) -> None:
    assert DHFR not in {case.system for case in MATRIX.expand(narrowed(PRESETS["default"], MATRIX))}
    with pytest.raises(ValueError, match=f"--structure {DHFR}=FILE"):
        narrowed(PRESETS["default"], MATRIX, systems=(DHFR,))
    (tmp_path / "p.xyz").write_text("1\n\nO 0 0 0\n")
    matrix = matrix_with({}, {DHFR: tmp_path / "p.xyz"})
    assert DHFR in {case.system for case in matrix.expand(narrowed(PRESETS["default"], matrix))}


def test_every_package_has_an_adapter_beside_it() -> None:
    there = {package for package in MATRIX.packages if competitor.adapter_of(package).is_file()}
    assert {"mosso", "mace-torch", "nequip", "orb-models", "sevenn", "fairchem-core"} <= there


def test_models_know_their_elements() -> None:
    assert {29, 6, 1, 8} <= MATERIALS
    assert 85 not in MATERIALS
    assert MODELS["mosso-xtb-s"].elements == {1, 6, 7, 8}
