"""mosso relax: what the file and the table say of relaxed structures."""

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import read, write

import mosso


@pytest.fixture
def molecules(tmp_path):
    stretched = []
    for seed in range(3):
        atoms = molecule("H2O")
        atoms.rattle(0.05, seed=seed)
        stretched.append(atoms)
    write(tmp_path / "in.extxyz", stretched)
    return tmp_path / "in.extxyz"


def test_molecules(run, run_json, molecules, model_file, tmp_path):
    out = tmp_path / "out.extxyz"
    document = run_json("relax", molecules, "--model", model_file, "--fmax", 0.05, "-o", out)
    assert document["num_structures"] == document["num_converged"] == 3
    assert document["precision"] == "fp64"
    pot = mosso.load(str(model_file))
    for row, before, after in zip(document["structures"], read(molecules, ":"), read(out, ":"), strict=True):
        assert row["converged"]
        assert row["max_force"] <= 0.05
        assert row["energy"] < row["energy_start"] == pytest.approx(float(pot(before).energy), abs=1e-9)
        assert after.get_potential_energy() == pytest.approx(row["energy"], abs=1e-8)
        np.testing.assert_allclose(after.get_forces(), pot(after).forces, atol=1e-5)
    text = run("relax", molecules, "--model", model_file, "--fmax", 0.05, "-o", out).stdout
    for word in ("3 of 3 converged", "fp64", "yes"):
        assert word in text


def test_what_did_not_converge_is_said(run, run_json, molecules, model_file, tmp_path):
    arguments = ("relax", molecules, "--model", model_file, "--fmax", 1e-6, "--steps", 3, "-o", tmp_path / "out.extxyz")
    document = run_json(*arguments)
    assert document["num_converged"] == 0
    assert [row["steps"] for row in document["structures"]] == [3, 3, 3]
    text = run(*arguments).stdout
    assert "0 of 3 converged" in text
    assert "NO" in text


def test_a_long_list_is_cut(run, model_file, tmp_path, monkeypatch):
    monkeypatch.setattr("mosso.cli.relax._ROWS_SHOWN", 2)
    write(tmp_path / "in.extxyz", [molecule("H2O")] * 4)
    arguments = ("relax", tmp_path / "in.extxyz", "--model", model_file, "-o", tmp_path / "out.extxyz")
    done = run(*arguments, "--fmax", 1e3)
    assert "4 of 4 converged" in done.stdout
    assert "structure" not in done.stdout
    failed = run(*arguments, "--fmax", 1e-9, "--steps", 1)
    assert failed.stdout.count("NO") == 2
    assert "2 more" in failed.stderr


def test_cell(run_json, model_file, tmp_path):
    copper = bulk("Cu", "fcc", a=3.9, cubic=True)
    copper.rattle(0.02, seed=0)
    write(tmp_path / "cu.extxyz", copper)
    fixed = run_json("relax", tmp_path / "cu.extxyz", "--model", model_file, "--steps", 10, "-o", tmp_path / "fixed.extxyz")
    free = run_json("relax", tmp_path / "cu.extxyz", "--model", model_file, "--steps", 10, "--cell", "-o", tmp_path / "free.extxyz")
    assert fixed["structures"][0]["volume"] == pytest.approx(copper.get_volume())
    assert free["structures"][0]["volume"] != pytest.approx(copper.get_volume(), rel=1e-4)
    assert free["structures"][0]["energy"] < fixed["structures"][0]["energy"]
    relaxed = read(tmp_path / "free.extxyz")
    assert relaxed.get_volume() == pytest.approx(free["structures"][0]["volume"], rel=1e-6)
    assert relaxed.get_stress().shape == (6,)


def test_steps_of_zero_only_looks(run_json, molecules, model_file, tmp_path):
    document = run_json("relax", molecules, "--model", model_file, "--steps", 0, "-o", tmp_path / "out.extxyz")
    for row in document["structures"]:
        assert row["energy"] == row["energy_start"]
    np.testing.assert_allclose(read(tmp_path / "out.extxyz", 0).positions, read(molecules, 0).positions, atol=1e-8)


def test_batches_make_no_difference(run_json, molecules, model_file, tmp_path, monkeypatch):
    arguments = ("relax", molecules, "--model", model_file, "--fmax", 0.05, "-o", tmp_path / "out.extxyz")
    together = run_json(*arguments)["structures"]
    monkeypatch.setattr("mosso.engine.batching.EDGES_AT_ONCE", {"cpu": 1, "cuda": 1})
    alone = run_json(*arguments)["structures"]
    np.testing.assert_allclose([row["energy"] for row in together], [row["energy"] for row in alone], atol=1e-8)
