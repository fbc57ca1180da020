"""What can go wrong: one clear sentence on stderr, exit code 2, nothing half-written."""

import json

import pytest
import torch
from ase import Atoms
from ase.io import write
from systems import water_box

from mosso.data.readers import to_atoms

GOOD = Atoms("OH2", positions=[[0, 0, 0.119], [0, 0.763, -0.477], [0, -0.763, -0.477]])


def assert_sentence(result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    assert lines[0].endswith((".", "!", "?"))
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def good(tmp_path):
    write(tmp_path / "good.extxyz", GOOD)
    return tmp_path / "good.extxyz"


@pytest.fixture(params=["evaluate", "relax", "md"])
def command(request, run, model_file, tmp_path):
    """Each verb that computes, on a structure file, writing into a folder of its own."""
    out = tmp_path / "out"
    out.mkdir()
    extra = {"evaluate": (), "relax": ("--steps", 2), "md": ("--steps", 2)}[request.param]

    def call(structures, *arguments, model=model_file):
        result = run(request.param, structures, "--model", model, "--out", out / "result.extxyz", "--device", "cpu", *extra, *arguments)
        assert result.exit_code == 0 or list(out.iterdir()) == [], "something half-written"
        return result

    call.verb = request.param
    return call


def test_the_good_case(command, good):
    result = command(good)
    assert result.exit_code == 0, result.output


def test_unknown_element(command, tmp_path):
    write(tmp_path / "xe.xyz", Atoms("XeO", positions=[[0, 0, 0], [0, 0, 2]]))
    assert_sentence(command(tmp_path / "xe.xyz"), "Xe", "H, C, O")


def test_positions_that_are_not_finite(command, tmp_path):
    path = tmp_path / "nan.xyz"
    path.write_text("2\n\nH 0 0 0\nH 0 nan 1\n")
    assert_sentence(command(path), "nan.xyz", "atom 1")


def test_cell_without_volume(command, tmp_path):
    path = tmp_path / "flat.extxyz"
    path.write_text('1\nLattice="4 0 0 0 4 0 4 4 0" Properties=species:S:1:pos:R:3 pbc="T T T"\nH 0 0 0\n')
    assert_sentence(command(path), "no volume")


def test_atoms_on_top_of_each_other(command, tmp_path):
    path = tmp_path / "clash.xyz"
    path.write_text("3\n\nO 0 0 0\nH 0 0 0\nH 0 0 1\n")
    result = command(path)
    assert result.exit_code == 2, f"{command.verb}: {result.output}"
    assert_sentence(result, "0", "1")


def overlap(atoms: Atoms) -> Atoms:
    atoms.positions[1] = atoms.positions[0] + [0, 0, 0.9e-3]
    return atoms


def gild(atoms: Atoms) -> Atoms:
    atoms.numbers[2] = 79
    return atoms


def charge(atoms: Atoms) -> Atoms:
    atoms.info["charge"] = 1
    return atoms


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (overlap, ("Structure 11: atoms 0 and 1 are 9.0e-04 A apart",)),
        (gild, ("Structure 11: the model does not know element Au", "H, C, O")),
        (charge, ("Structure 11:", "total charge")),
    ],
)
@pytest.mark.parametrize("edges_at_once", [1000, 2**20], ids=["many batches", "one batch"])
@pytest.mark.parametrize("verb", ["evaluate", "relax"])
def test_one_bad_frame_is_refused_by_its_number_before_any_work(verb, edges_at_once, spoil, words, run, model_file, tmp_path, monkeypatch):
    from mosso.engine.potential import Potential

    def evaluate(*_, **__):
        raise AssertionError("nothing is to be computed")

    monkeypatch.setattr(Potential, "evaluate", evaluate)
    monkeypatch.setattr("mosso.engine.batching.EDGES_AT_ONCE", {"cpu": edges_at_once, "cuda": edges_at_once})
    boxes = [to_atoms(water_box(2 if seed % 3 else 1, seed=seed)) for seed in range(12)]
    write(tmp_path / "many.extxyz", [*boxes[:-1], spoil(boxes[-1])])
    result = run(verb, tmp_path / "many.extxyz", "--model", model_file, "--out", tmp_path / "out.extxyz", "--device", "cpu")
    assert_sentence(result, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["many.extxyz"]


def test_empty_file(command, tmp_path):
    (tmp_path / "empty.extxyz").touch()
    assert_sentence(command(tmp_path / "empty.extxyz"), "empty.extxyz")


def test_missing_file(command, tmp_path):
    assert_sentence(command(tmp_path / "nothing.xyz"), "nothing.xyz")


def test_a_folder_instead_of_a_file(command, tmp_path):
    assert_sentence(command(tmp_path), str(tmp_path))


def test_a_file_of_something_else(command, tmp_path):
    (tmp_path / "noise.extxyz").write_bytes(bytes(range(256)))
    assert_sentence(command(tmp_path / "noise.extxyz"), "noise.extxyz")
    (tmp_path / "text.extxyz").write_text("hello\n")
    assert_sentence(command(tmp_path / "text.extxyz"), "text.extxyz")


def test_truncated_file(command, tmp_path):
    (tmp_path / "cut.xyz").write_text("3\n\nO 0 0 0\nH 0 0 1\n")
    assert_sentence(command(tmp_path / "cut.xyz"), "cut.xyz")


def test_unknown_suffix(command, tmp_path):
    (tmp_path / "a.unknown").write_text("3\n")
    assert_sentence(command(tmp_path / "a.unknown"), "a.unknown")


def test_out_with_a_wrong_extension(command, good, tmp_path):
    assert_sentence(command(good, "--out", tmp_path / "result.pdf"), "result.pdf", ".extxyz")
    assert not (tmp_path / "result.pdf").exists()


def test_out_into_a_missing_folder(command, good, tmp_path):
    assert_sentence(command(good, "--out", tmp_path / "no" / "result.extxyz"), str(tmp_path / "no"), "does not exist")
    assert not (tmp_path / "no").exists()


def test_out_is_a_folder(command, good, tmp_path):
    (tmp_path / "dir.extxyz").mkdir()
    assert_sentence(command(good, "--out", tmp_path / "dir.extxyz"), "folder")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_device_that_is_not_there(command, good):
    assert_sentence(command(good, "--device", "cuda"), "cuda", "cpu")


def test_precision_not_known(command, good):
    assert_sentence(command(good, "--precision", "fp8"), "fp8", "fp64")


def test_unknown_model(command, good):
    assert_sentence(command(good, model="no-such-model"), "no-such-model")


def test_model_file_missing(command, good, tmp_path):
    assert_sentence(command(good, model=tmp_path / "gone.mosso"), "gone.mosso")


def test_model_file_damaged(command, good, tmp_path, model_file):
    (tmp_path / "half.mosso").write_bytes(model_file.read_bytes()[: model_file.stat().st_size // 2])
    assert_sentence(command(good, model=tmp_path / "half.mosso"), "half.mosso")


def test_unknown_head(command, good):
    assert_sentence(command(good, "--head", "second"), "second")


def test_the_error_as_json(command, tmp_path):
    result = command(tmp_path / "nothing.xyz", "--json")
    assert result.exit_code == 2
    assert "nothing.xyz" in json.loads(result.stdout)["error"]
    assert result.stderr.startswith("Error: ")


def test_the_traceback_when_asked_for(command, tmp_path, monkeypatch):
    monkeypatch.setenv("MOSSO_DEBUG", "1")
    result = command(tmp_path / "nothing.xyz")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_an_existing_result_survives_an_error(run, model_file, tmp_path):
    out = tmp_path / "result.extxyz"
    out.write_text("precious")
    frames = [GOOD, Atoms("Xe")]
    write(tmp_path / "frames.extxyz", frames)
    for verb in ("evaluate", "relax"):
        assert run(verb, tmp_path / "frames.extxyz", "--model", model_file, "--out", out).exit_code == 2
        assert out.read_text() == "precious"
        assert sorted(path.name for path in tmp_path.glob("result*")) == ["result.extxyz"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("relax", "--fmax", "-1"), "fmax"),
        (("relax", "--steps", "-1"), "steps"),
        (("md", "--timestep", "0"), "timestep"),
        (("md", "--temperature", "-5"), "temperature"),
        (("md", "--steps", "-1"), "steps"),
        (("md", "--friction", "-1"), "friction"),
        (("md", "--write-every", "0"), "write"),
        (("md", "--log-every", "0"), "log"),
        (("md", "--temperature", "nan"), "temperature"),
    ],
)
def test_numbers_out_of_range(run, good, model_file, tmp_path, arguments, word):
    verb, *rest = arguments
    result = run(verb, good, "--model", model_file, "--out", tmp_path / "o.extxyz", *rest)
    assert result.exit_code == 2, result.output
    assert word in result.stderr.lower()
    assert not (tmp_path / "o.extxyz").exists()


def test_pressure_without_a_cell(run, good, model_file, tmp_path):
    result = run("md", good, "--model", model_file, "--ensemble", "npt", "--steps", 2, "--out", tmp_path / "o.extxyz")
    assert_sentence(result, "cell")


def test_cell_relaxation_without_a_cell(run, good, model_file, tmp_path):
    result = run("relax", good, "--model", model_file, "--cell", "--out", tmp_path / "o.extxyz")
    assert_sentence(result, "cell")
