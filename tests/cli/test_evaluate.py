"""mosso evaluate: the numbers of the Python interface, in a file and in a table."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from systems import water_box

import mosso
from mosso.data.readers import to_atoms
from mosso.data.structure import BadStructure
from mosso.engine.potential import Potential
from mosso.interfaces.ase import Calculator

REFERENCE = {"energy": (0.010, -0.030), "forces": 0.05, "stress": 0.002}  # what labels are off by


def frames() -> list[Atoms]:
    """A molecule and a crystal."""
    copper = bulk("Cu", "fcc", a=3.7, cubic=True)
    copper.rattle(0.05, seed=1)
    return [molecule("CH3CH2OH"), copper]


@pytest.fixture
def labelled(model_file, tmp_path):
    """The frames with labels that are wrong by known amounts."""
    labelled = frames()
    for atoms, shift in zip(labelled, REFERENCE["energy"], strict=True):
        atoms.calc = Calculator(str(model_file))
        labels = {"energy": atoms.get_potential_energy() + shift * len(atoms), "forces": atoms.get_forces() + REFERENCE["forces"]}
        if atoms.cell.rank == 3:
            labels["stress"] = atoms.get_stress() + REFERENCE["stress"]
        atoms.calc = SinglePointCalculator(atoms, **labels)
    path = tmp_path / "labelled.traj"  # holds every digit
    write(path, labelled)
    return path


def test_written_frames_are_read_back_with_results(run, model_file, tmp_path):
    write(tmp_path / "in.extxyz", frames())
    for name in ("out.extxyz", "out.xyz", "out.traj"):
        result = run("evaluate", tmp_path / "in.extxyz", "--model", model_file, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        pot = mosso.load(str(model_file))
        for before, after in zip(read(tmp_path / "in.extxyz", ":"), read(tmp_path / name, ":"), strict=True):
            expected = pot(before)
            assert after.get_potential_energy() == pytest.approx(float(expected.energy), abs=1e-8)
            np.testing.assert_allclose(after.get_forces(), expected.forces, atol=1e-7)
            if before.cell.rank == 3:
                np.testing.assert_allclose(after.get_stress(voigt=False), expected.stress, atol=1e-9)


def test_errors_against_labels(run_json, run, labelled, model_file):
    document = run_json("evaluate", labelled, "--model", model_file, "--device", "cpu")
    assert (document["num_frames"], document["num_atoms"], document["precision"]) == (2, 13, "fp64")
    errors = document["errors"]
    assert errors["energy"]["mae"] == pytest.approx(20.0, rel=1e-6)
    assert errors["energy"]["rmse"] == pytest.approx(np.sqrt((10.0**2 + 30.0**2) / 2), rel=1e-6)
    assert errors["forces"]["mae"] == pytest.approx(50.0, rel=1e-6)
    assert errors["forces"]["rmse"] == pytest.approx(50.0, rel=1e-6)
    assert errors["stress"]["mae"] == pytest.approx(2.0, rel=1e-6)
    assert [errors[name]["frames"] for name in ("energy", "forces", "stress")] == [2, 2, 1]
    text = run("evaluate", labelled, "--model", model_file).stdout
    for word in ("2 frames", "13 atoms", "meV/atom", "20.00", "22.36", "50.00", "2.00"):
        assert word in text


def test_labels_under_other_names(run_json, run, model_file, tmp_path):
    atoms = molecule("H2O")
    pot = mosso.load(str(model_file))
    atoms.info["energy_xtb"] = float(pot(atoms).energy) + 0.3
    atoms.arrays["forces_xtb"] = pot(atoms).forces.numpy() - 0.01
    write(tmp_path / "a.extxyz", atoms)
    assert run_json("evaluate", tmp_path / "a.extxyz", "--model", model_file)["errors"] == {}
    keys = ("--energy-key", "energy_xtb", "--forces-key", "forces_xtb")
    errors = run_json("evaluate", tmp_path / "a.extxyz", "--model", model_file, *keys)["errors"]
    assert errors["energy"]["mae"] == pytest.approx(100.0, abs=1e-4)
    assert errors["forces"]["rmse"] == pytest.approx(10.0, abs=1e-4)
    wrong = run("evaluate", tmp_path / "a.extxyz", "--model", model_file, "--energy-key", "dft")
    assert wrong.exit_code == 2
    assert "dft" in wrong.stderr


def test_without_labels_a_summary(run, model_file, tmp_path):
    write(tmp_path / "in.extxyz", frames())
    text = run("evaluate", tmp_path / "in.extxyz", "--model", model_file).stdout
    for word in ("tiny", "fp64", "cpu", "2 frames", "13 atoms", "energy", "force"):
        assert word in text


def test_batches_make_no_difference(run_json, model_file, tmp_path, monkeypatch):
    many = []
    for seed in range(5):
        many += frames()
        for atoms in many[-2:]:
            atoms.rattle(0.03, seed=seed)
    write(tmp_path / "many.extxyz", many)
    together = run_json("evaluate", tmp_path / "many.extxyz", "--model", model_file)["energy"]
    monkeypatch.setattr("mosso.engine.batching.EDGES_AT_ONCE", {"cpu": 1, "cuda": 1})
    alone = run_json("evaluate", tmp_path / "many.extxyz", "--model", model_file)["energy"]
    np.testing.assert_allclose(together, alone, rtol=1e-13)


def test_precision_changes_little(run_json, model_file, tmp_path):
    write(tmp_path / "in.extxyz", frames())
    double, single = (run_json("evaluate", tmp_path / "in.extxyz", "-m", model_file, "--precision", name) for name in ("fp64", "fp32"))
    assert single["precision"] == "fp32"
    np.testing.assert_allclose(single["energy"], double["energy"], rtol=1e-5)
    assert single["energy"] != double["energy"]


def test_an_existing_file_is_replaced_also_in_place(run, model_file, tmp_path):
    path = tmp_path / "in.extxyz"
    write(path, frames())
    assert run("evaluate", path, "--model", model_file, "--out", path).exit_code == 0
    assert read(path, 1).get_forces().shape == (4, 3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.extxyz"]


@pytest.fixture
def stops(monkeypatch):
    """``stops(error)``: two frames make a batch, and the third batch ends in that error, or in a frame without an answer."""

    def arrange(error: BaseException | None) -> None:
        evaluate, calls = Potential.evaluate, []

        def stopping(self, batch, graph, **options):
            calls.append(batch.num_systems)
            output = evaluate(self, batch, graph, **options)
            if len(calls) != 3:
                return output
            if error is not None:
                raise error
            return replace(output, energy=torch.where(torch.arange(batch.num_systems) == 1, torch.nan, output.energy))

        monkeypatch.setattr(Potential, "evaluate", stopping)

    monkeypatch.setattr("mosso.engine.batching.EDGES_AT_ONCE", {"cpu": 1000, "cuda": 1000})
    return arrange


@pytest.mark.parametrize(
    ("error", "code", "word", "num_kept"),
    [
        (None, 2, "Structure 5: energy or forces are not finite", 5),
        (BadStructure(0, "it is broken."), 2, "Structure 4: it is broken.", 4),
        (torch.OutOfMemoryError("CUDA out of memory."), 0, "", 0),  # smaller batches, and nothing is lost
        (KeyboardInterrupt(), 130, "Interrupted", 4),
    ],
    ids=["not finite", "bad structure", "out of memory", "interrupted"],
)
def test_what_was_computed_is_kept(stops, error, code, word, num_kept, run, model_file, tmp_path):
    """In a file of its own: the one that was asked for holds all frames or what it held before, here the input itself."""
    path = tmp_path / "in.extxyz"
    write(path, [to_atoms(water_box(2, seed=seed)) for seed in range(7)])
    assert run("evaluate", path, "--model", model_file, "--out", tmp_path / "whole.extxyz").exit_code == 0
    whole, before = read(tmp_path / "whole.extxyz", ":"), path.read_bytes()
    stops(error)
    result = run("evaluate", path, "--model", model_file, "--out", path)
    assert result.exit_code == code, result.output
    assert word in result.stderr
    assert (path.read_bytes() == before) == (code != 0)
    kept = tmp_path / "partial-in.extxyz"
    assert kept.exists() == (num_kept > 0)
    if num_kept:
        assert f"Wrote the first {num_kept} frames to {kept}." in result.stderr
    frames = read(kept if num_kept else path, ":")
    assert len(frames) == (num_kept or 7)
    for frame, want in zip(frames, whole, strict=False):
        np.testing.assert_allclose(frame.get_forces(), want.get_forces(), atol=2e-8)
