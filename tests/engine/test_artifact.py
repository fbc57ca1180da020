"""The model file: bits survive, writing is atomic, and a reader refuses what it cannot honour."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mosso.engine.artifact import Manifest, manifest_of, read_artifact, read_manifest, tensors_sha256, write_artifact
from mosso.version import VERSION
from mosso.weights.checkpoint import Checkpoint
from mosso.weights.mace import read_mace

GOLDEN = Path(__file__).resolve().parents[1] / "parity" / "goldens" / "small_density_agnesi_zbl.model"


def bits(value: torch.Tensor) -> bytes:
    return bytes(value.contiguous().reshape(-1).view(torch.uint8).tolist())


def checkpoint() -> Checkpoint:
    base = torch.arange(12, dtype=torch.float64).reshape(3, 4)
    tensors = {
        "w.double": base.t(),  # not contiguous
        "w.shared": base[1:],  # shares memory
        "w.float": torch.tensor([0.1, -0.0, float("nan")], dtype=torch.float32),
        "w.brain": torch.tensor([1.5, 3e38], dtype=torch.bfloat16),
        "w.half": torch.ones(2, 0, dtype=torch.float16),
        "flag": torch.tensor(True),
        "count": torch.tensor(7, dtype=torch.int64),
        "p": torch.tensor(5, dtype=torch.int32),
    }
    spec = {"species": [1, 8], "r_max": 4.5, "heads": ["Default"], "nested": {"a": [1, 2.5, None, "x"]}, "scale_shift": True}
    provenance = {"source": "x.model", "sha256": "ab" * 32, "dtype": "float64", "licence": "MIT", "citation": "c", "reader": "r", "seed": 3}
    return Checkpoint("mace", spec, tensors, provenance)


def written(tmp_path: Path) -> Path:
    path = tmp_path / "model.mosso"
    write_artifact(path, checkpoint())
    return path


def test_round_trip_is_bit_for_bit(tmp_path: Path) -> None:
    before, after = checkpoint(), read_artifact(written(tmp_path))
    assert set(after.tensors) == set(before.tensors)
    for name, value in before.tensors.items():
        assert after.tensors[name].dtype == value.dtype and after.tensors[name].shape == value.shape, name
        assert bits(after.tensors[name]) == bits(value), name
    assert (after.architecture, after.spec, after.provenance) == (before.architecture, before.spec, before.provenance)


def test_writing_twice_gives_the_same_file(tmp_path: Path) -> None:
    first = written(tmp_path).read_bytes()
    write_artifact(tmp_path / "again.mosso", read_artifact(tmp_path / "model.mosso"))
    assert (tmp_path / "again.mosso").read_bytes() == first


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN.name} has not been made (tests/parity/README.md)")
def test_round_trip_of_a_mace_file(tmp_path: Path) -> None:
    before = read_mace(GOLDEN)
    write_artifact(tmp_path / "m.mosso", before)
    after = read_artifact(tmp_path / "m.mosso")
    assert after.spec == before.spec and after.provenance == before.provenance and set(after.tensors) == set(before.tensors)
    assert all(bits(after.tensors[name]) == bits(value) for name, value in before.tensors.items())


def test_manifest_says_what_the_file_is(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path))
    assert isinstance(manifest, Manifest)
    assert (manifest.schema_version, manifest.mosso_version, manifest.architecture) == (1, VERSION, "mace")
    assert (manifest.species, manifest.cutoff, manifest.heads, manifest.precision) == ([1, 8], 4.5, ["Default"], "float64")
    assert (manifest.units.energy, manifest.units.length) == ("eV", "Angstrom")
    assert (manifest.provenance.source, manifest.provenance.licence, manifest.provenance.sha256) == ("x.model", "MIT", "ab" * 32)
    assert manifest.tensors["w.double"].shape == [4, 3] and manifest.tensors["w.brain"].dtype == "bfloat16"
    assert manifest.model_dump() == manifest_of(checkpoint())
    json.dumps(manifest_of(checkpoint()), allow_nan=False)


def test_it_is_a_plain_safetensors_file(tmp_path: Path) -> None:
    with safe_open(written(tmp_path), framework="pt") as file:
        assert list(file.metadata()) == ["mosso"]


def test_checksum_sees_names_shapes_formats_and_bits() -> None:
    base = {"a": torch.zeros(4), "b": torch.ones(2)}
    digest = tensors_sha256(base)
    assert digest == tensors_sha256(dict(reversed(base.items())))
    changed = [
        {**base, "a": torch.zeros(2, 2)},
        {**base, "a": torch.zeros(4, dtype=torch.int32)},
        {**base, "a": -torch.zeros(4)},
        {"a": base["a"], "c": base["b"]},
    ]
    assert len({digest, *map(tensors_sha256, changed)}) == 5


# --- refusals -----------------------------------------------------------------------------------------------------


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> None:
    """Change manifest and tensors of a file behind the package's back."""
    with safe_open(path, framework="pt") as file:
        manifest = json.loads(file.metadata()["mosso"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    change(manifest, tensors)
    save_file(tensors, path, metadata={"mosso": json.dumps(manifest)})


MANIFEST_CHANGES: dict[str, tuple[Callable[[dict[str, Any], dict[str, torch.Tensor]], object], str]] = {
    "future schema": (lambda m, t: m.update(schema_version=2), "written in schema 2.*update mosso"),
    "no schema": (lambda m, t: m.pop("schema_version"), "no schema"),
    "schema as text": (lambda m, t: m.update(schema_version="1"), "no schema"),
    "unknown architecture": (lambda m, t: m.update(architecture="perceptron"), "unknown architecture 'perceptron'"),
    "unknown key": (lambda m, t: m.update(dispersion="d3"), "dispersion cannot be honoured"),
    "missing key": (lambda m, t: m.pop("heads"), "heads cannot be honoured"),
    "other energy unit": (lambda m, t: m["units"].update(energy="kcal/mol"), "units.energy cannot be honoured"),
    "other length unit": (lambda m, t: m["units"].update(length="Bohr"), "units.length cannot be honoured"),
    "unknown unit": (lambda m, t: m["units"].update(charge="e"), "units.charge cannot be honoured"),
    "no licence": (lambda m, t: m["provenance"].pop("licence"), "provenance.licence cannot be honoured"),
    "cutoff": (lambda m, t: m.update(cutoff=-1.0), "cutoff cannot be honoured"),
    "cutoffs disagree": (lambda m, t: m.update(cutoff=5.0), "disagree on r_max"),
    "species disagree": (lambda m, t: m.update(species=[1, 6]), "disagree on species"),
    "species order": (lambda m, t: (m.update(species=[8, 1]), m["spec"].update(species=[8, 1])), "not ascending"),
    "no species": (lambda m, t: m.update(species=[]), "species cannot be honoured"),
    "heads disagree": (lambda m, t: m.update(heads=["a"]), "disagree on heads"),
    "missing tensor": (lambda m, t: t.pop("w.float"), r"missing tensors w\.float \(1 in all\)"),
    "unexpected tensor": (lambda m, t: t.update(extra=torch.ones(1)), "unexpected tensors extra"),
}


@pytest.mark.parametrize("case", MANIFEST_CHANGES)
def test_manifests_that_are_refused(tmp_path: Path, case: str) -> None:
    change, message = MANIFEST_CHANGES[case]
    path = written(tmp_path)
    rewrite(path, lambda m, t: None)
    read_artifact(path)  # control: rewriting alone is harmless
    rewrite(path, change)
    for read in (read_manifest, read_artifact):
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_tensors_that_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    rewrite(path, lambda m, t: t.update({"w.double": t["w.double"].float()}))
    with pytest.raises(ValueError, match=r"tensors w\.double do not have the shape or format"):
        read_artifact(path)
    path = written(tmp_path)
    rewrite(path, lambda m, t: t["w.double"].view(torch.int64).bitwise_xor_(1))
    read_manifest(path)
    with pytest.raises(ValueError, match="checksum"):
        read_artifact(path)


def test_files_that_are_refused(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        for read in (read_manifest, read_artifact):
            with pytest.raises(ValueError, match=message):
                read(tmp_path / name)

    data = written(tmp_path).read_bytes()
    for size in (0, 5, 200, len(data) - 1):
        (tmp_path / "cut.mosso").write_bytes(data[:size])
        refused("cut.mosso", "not a whole mosso model file")
    (tmp_path / "text.mosso").write_text("hello, this is not a model file at all")
    refused("text.mosso", "not a whole mosso model file")
    torch.save({"a": torch.ones(2)}, tmp_path / "torch.mosso")
    refused("torch.mosso", "not a whole mosso model file")
    save_file({"a": torch.ones(2)}, tmp_path / "plain.mosso")
    refused("plain.mosso", "without a mosso manifest")
    save_file({"a": torch.ones(2)}, tmp_path / "broken.mosso", metadata={"mosso": "{"})
    refused("broken.mosso", "not JSON")
    save_file({"a": torch.ones(2)}, tmp_path / "list.mosso", metadata={"mosso": "[1]"})
    refused("list.mosso", "no schema")
    for read in (read_manifest, read_artifact):
        with pytest.raises(FileNotFoundError, match="no such file"):
            read(tmp_path / "nowhere.mosso")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("spec", {"extra": {1, 2}}, "not plain data"),
        ("spec", {"r_max": float("nan")}, "not plain data"),
        ("spec", {"heads": None}, "heads cannot be honoured"),
        ("provenance", {"licence": 3}, "licence cannot be honoured"),
    ],
)
def test_checkpoints_that_are_not_written(tmp_path: Path, part: str, change: dict[str, Any], message: str) -> None:
    model = checkpoint()
    getattr(model, part).update(change)
    with pytest.raises(ValueError, match=message):
        write_artifact(tmp_path / "model.mosso", model)
    del getattr(model, part)[next(iter(change))]
    if "extra" not in change:
        with pytest.raises(ValueError, match="lacks|cannot be honoured"):
            write_artifact(tmp_path / "model.mosso", model)
    assert list(tmp_path.iterdir()) == []


def test_writing_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    before = path.read_bytes()

    def half(target: Path, data: bytes) -> int:
        with open(target, "wb") as file:
            file.write(data[:100])
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(Path, "write_bytes", half)
        write_artifact(path, checkpoint())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    write_artifact(path, checkpoint())
    assert path.stat().st_mode & 0o044, "others may read a model file"
