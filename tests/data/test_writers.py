"""Writing frames: ASE reads back what was written, and a failure changes nothing."""

import os
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from systems import awkward, copper, water_molecule

from mosso.data import writers
from mosso.data.atomic import atomic_path
from mosso.data.readers import read_structures, to_atoms
from mosso.data.structure import Structure
from mosso.data.writers import write_frames

STRESS = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
ENDINGS = ["extxyz", "xyz", "traj", "extxyz.gz", "xyz.gz"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def results(structure: Structure, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    forces, node_energies = rng.standard_normal((len(structure), 3)), rng.standard_normal(len(structure))
    return {"energy": float(node_energies.sum()), "forces": forces, "stress": STRESS, "node_energies": node_energies}


def read(path: str) -> list[Atoms]:
    found = ase.io.read(path, ":")
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("ending", ENDINGS)
def test_ase_reads_results_back(ending: str) -> None:
    structure = copper()
    expected = results(structure)
    write_frames(f"out.{ending}", [(structure, expected), (structure, {"energy": torch.tensor(2.5)}), (structure, {})])
    first, second, third = read(f"out.{ending}")
    assert first.get_potential_energy() == pytest.approx(expected["energy"], abs=1e-12)
    assert np.allclose(first.get_forces(), expected["forces"], atol=1e-8)
    assert np.allclose(first.get_stress(voigt=False), STRESS)
    assert np.allclose(first.get_potential_energies(), expected["node_energies"], atol=1e-8)
    assert np.allclose(first.positions, structure.positions, atol=1e-8) and np.allclose(first.cell, structure.cell)
    assert second.get_potential_energy() == 2.5 and set(second.calc.results) == {"energy"}
    assert third.calc is None


@pytest.mark.parametrize("ending", ["extxyz", "traj"])
def test_every_awkward_structure_survives(ending: str) -> None:
    structures = list(awkward().values())
    write_frames(f"out.{ending}", ((s, results(s)) for s in structures))
    for before, after in zip(structures, read_structures(f"out.{ending}"), strict=True):
        assert np.array_equal(before.numbers, after.numbers) and np.array_equal(before.pbc, after.pbc)
        assert np.allclose(before.positions, after.positions, atol=1e-8) and np.allclose(before.cell, after.cell)
        assert np.allclose(after.labels["forces"], results(before)["forces"], atol=1e-8)


def test_tensors_and_voigt_stress() -> None:
    structure = copper()
    forces = torch.ones(len(structure), 3, dtype=torch.float32, requires_grad=True)
    values = {"energy": torch.tensor([1.0]), "forces": forces, "stress": torch.arange(1.0, 7.0), "node_energies": None}
    write_frames("out.extxyz", [(structure, values)])
    (labels,) = (s.labels for s in read_structures("out.extxyz"))
    assert labels["energy"] == 1.0 and (labels["forces"] == 1.0).all() and np.array_equal(labels["stress"], STRESS)


def test_structure_alone_is_written_with_its_labels() -> None:
    structure = Structure(**{**copper().__dict__, "labels": {"energy": -1.5}})
    write_frames("out.extxyz", [structure, copper()])
    assert [s.labels for s in read_structures("out.extxyz")] == [{"energy": -1.5}, {}]


@pytest.mark.parametrize("ending", ["extxyz", "traj"])
def test_info_is_kept_and_old_results_dropped_without_warnings(ending: str) -> None:
    info = {
        "group": "liquid", "REF_energy": -2.0, "weights": np.array([1.0, 2.0]), "nested": {"a": [1, 2]}, "flag": True,
        "energy": 99.0, "stress": np.ones(6), "free_energy": 98.0, "dipole": np.zeros(3),
        "source": object(), "nothing": None,
    }  # fmt: skip
    structure = Structure(**{**water_molecule().__dict__, "info": info, "charge": 1.0, "spin": 2, "labels": {"energy": 97.0}})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        write_frames(f"out.{ending}", [(structure, {"energy": 1.0}), (structure, {})])
    first, second = read(f"out.{ending}")
    assert first.calc.results == {"energy": 1.0}
    assert second.calc is None
    for atoms in (first, second):
        assert set(atoms.info) == {"group", "REF_energy", "weights", "nested", "flag", "charge", "spin"}
        assert atoms.info["group"] == "liquid" and atoms.info["weights"].tolist() == [1.0, 2.0] and atoms.info["nested"] == {"a": [1, 2]}
    assert "energy" in structure.info  # the input is left alone
    assert [(s.charge, s.spin) for s in read_structures(f"out.{ending}")] == [(1.0, 2)] * 2


def test_read_evaluate_write_keeps_reference_labels() -> None:
    atoms = to_atoms(water_molecule())
    atoms.info["REF_energy"] = -3.0
    ase.io.write("in.extxyz", atoms)
    (frame,) = read_structures("in.extxyz", energy_key="REF_energy")
    write_frames("out.extxyz", [(frame, {"energy": -2.9})])
    (again,) = read_structures("out.extxyz", energy_key="REF_energy")
    assert again.labels["energy"] == -3.0 and read("out.extxyz")[0].get_potential_energy() == -2.9


@pytest.mark.parametrize("name", ["out.cif", "out", "out.xyz.bz2", ".extxyz"])
def test_unknown_ending(name: str) -> None:
    with pytest.raises(ValueError, match=r"use one ending in \.extxyz, \.xyz, \.extxyz\.gz, \.xyz\.gz, \.traj"):
        write_frames(name, [(water_molecule(), {})])
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"forces": np.zeros((2, 3))}, r"Frame 1: the forces have shape \(2, 3\), expected \(3, 3\)"),
        ({"stress": np.zeros(9)}, r"Frame 1: the stress have shape \(9,\)"),
        ({"energy": np.zeros(3)}, "Frame 1: the energy have shape"),
        ({"magic": 1.0}, "Frame 1: there is no result called 'magic'; results are energy, forces, stress, node_energies"),
    ],
)
def test_bad_results_leave_the_old_file(result: dict, message: str) -> None:
    Path("out.extxyz").write_text("old")
    with pytest.raises(ValueError, match=message):
        write_frames("out.extxyz", [(water_molecule(), {}), (water_molecule(), result)])
    assert Path("out.extxyz").read_text() == "old" and os.listdir() == ["out.extxyz"]


def test_nothing_to_write() -> None:
    with pytest.raises(ValueError, match="no frames to write to out.extxyz"):
        write_frames("out.extxyz", [])
    assert os.listdir() == []


def test_writer_that_fails_halfway_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write_frames("out.extxyz", [(water_molecule(), {"energy": 1.0})])
    before = Path("out.extxyz").read_bytes()

    def half(path: Path, *_: object, **__: object) -> None:
        path.write_text("half a fra")
        assert Path("out.extxyz").read_bytes() == before
        raise OSError("No space left on device")

    monkeypatch.setattr(writers.ase.io, "write", half)
    with pytest.raises(OSError, match="No space left"):
        write_frames("out.extxyz", [(water_molecule(), {"energy": 2.0})])
    assert Path("out.extxyz").read_bytes() == before and os.listdir() == ["out.extxyz"]


def test_atomic_path_replaces_at_the_end() -> None:
    target = Path("data.bin")
    target.write_text("old")
    target.chmod(0o640)
    with atomic_path(target) as temporary:
        assert temporary.parent == target.resolve().parent and temporary.suffix == ".bin" and not temporary.exists()
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and os.listdir() == ["data.bin"]
    assert target.stat().st_mode & 0o777 == 0o640


def test_atomic_path_gives_usual_permissions() -> None:
    Path("plain").write_text("x")
    with atomic_path("new") as temporary:
        temporary.write_text("x")
    assert Path("new").stat().st_mode == Path("plain").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, "old"])
def test_atomic_path_on_failure(error: type[BaseException], old: str | None) -> None:
    if old:
        Path("data.bin").write_text(old)
    with pytest.raises(error), atomic_path("data.bin") as temporary:
        temporary.write_text("half")
        raise error
    assert os.listdir() == (["data.bin"] if old else [])
    assert not old or Path("data.bin").read_text() == old


def test_atomic_path_follows_links_and_leaves_devices() -> None:
    Path("real").write_text("old")
    os.symlink("real", "link")
    with atomic_path("link") as temporary:
        temporary.write_text("new")
    assert Path("link").is_symlink() and Path("real").read_text() == "new"
    with atomic_path("/dev/null") as temporary:
        temporary.write_text("gone")
    assert not Path("/dev/null").is_file()


def test_atomic_path_refuses_folders_and_missing_parents() -> None:
    Path("folder").mkdir()
    with pytest.raises(ValueError, match="folder is a folder"), atomic_path("folder"):
        pass
    missing = "Cannot write nowhere/out.bin: the folder .*nowhere does not exist"
    with pytest.raises(FileNotFoundError, match=missing), atomic_path("nowhere/out.bin"):
        pass
    with pytest.raises(FileNotFoundError, match="create it first"):
        write_frames("nowhere/out.extxyz", [(water_molecule(), {})])


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj"])
def test_fixed_atoms_go_round(tmp_path, name):
    fixed = np.array([True, False, True])
    structure = Structure(np.array([8, 1, 1]), np.eye(3), fixed=fixed)
    write_frames(tmp_path / name, [structure])
    assert (read_structures(tmp_path / name)[0].fixed == fixed).all()
    write_frames(tmp_path / name, [Structure(np.array([8, 1, 1]), np.eye(3))])
    assert read_structures(tmp_path / name)[0].fixed is None
