"""mosso relax: what the file and the table say of relaxed structures."""

import json
import os
import signal

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import read, write

import mosso
from mosso.cli.interrupt import SIGNALS
from mosso.dynamics.relax import _Descent
from mosso.engine.potential import Potential


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


@pytest.fixture
def stopped(run, model_file, tmp_path, monkeypatch):
    """``stopped(at, number)``: water, methane and water, one after the other; a signal when methane is evaluated for that time."""
    frames = [molecule(name) for name in ("H2O", "CH4", "H2O")]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
    write(tmp_path / "in.extxyz", frames)
    monkeypatch.setattr("mosso.engine.batching.EDGES_AT_ONCE", {"cpu": 1, "cuda": 1})

    def call(at: int, number: int, *arguments):
        calls = []

        def counting(made):
            def method(self, *arguments):
                calls.extend([1] if self.batch0.num_atoms == 5 else [])
                if len(calls) == at:
                    os.kill(os.getpid(), number)
                return made(self, *arguments)

            return method

        for name in ("begin", "step"):
            monkeypatch.setattr(_Descent, name, counting(getattr(_Descent, name)))
        out = tmp_path / "out.extxyz"
        return run("relax", tmp_path / "in.extxyz", "--model", model_file, "--fmax", 1e-3, "--device", "cpu", "-o", out, *arguments)

    return call


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_leaves_what_there_is(stopped, tmp_path, number):
    """Beside the file that was asked for, which keeps what it held; the table says what has converged."""
    (tmp_path / "out.extxyz").write_text("precious")
    result = stopped(12, number)
    assert result.exit_code == 130, result.output
    assert "1 of 2 converged" in result.stdout
    assert "NO" in result.stdout
    wrote, interrupted = result.stderr.splitlines()
    assert wrote == f"Wrote the first 2 frames to {tmp_path / 'partial-out.extxyz'}."
    assert interrupted == "Interrupted; of 3 structures 1 had converged, and 1 had not begun."
    assert (tmp_path / "out.extxyz").read_text() == "precious"
    given, kept = read(tmp_path / "in.extxyz", ":"), read(tmp_path / "partial-out.extxyz", ":")
    assert len(kept) == 2
    assert np.linalg.norm(kept[0].get_forces(), axis=1).max() <= 1e-3
    assert np.abs(kept[1].positions - given[1].positions).max() > 1e-3
    assert np.linalg.norm(kept[1].get_forces(), axis=1).max() > 1e-3


def test_an_interrupt_as_json(stopped, tmp_path):
    result = stopped(12, signal.SIGTERM, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 130
    assert (document["completed"], document["out"]) == (False, None)
    assert (document["num_structures"], document["num_converged"]) == (2, 1)
    kept = read(tmp_path / "partial-out.extxyz", ":")
    for row, atoms in zip(document["structures"], kept, strict=True):
        assert atoms.get_potential_energy() == pytest.approx(row["energy"], abs=1e-8)
        assert row["energy"] < row["energy_start"]


def test_an_interrupt_before_a_batch_has_begun_leaves_the_batches_before(stopped, tmp_path):
    result = stopped(1, signal.SIGINT)
    assert result.exit_code == 130
    assert "of 3 structures 1 had converged, and 2 had not begun" in result.stderr
    assert len(read(tmp_path / "partial-out.extxyz", ":")) == 1


def test_an_interrupt_before_anything_was_done_leaves_nothing(run, model_file, molecules, tmp_path, monkeypatch):
    def evaluate(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Potential, "evaluate", evaluate)
    result = run("relax", molecules, "--model", model_file, "-o", tmp_path / "out.extxyz")
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["Interrupted before the first step; nothing was written."]
    assert [path.name for path in tmp_path.iterdir()] == ["in.extxyz"]


@pytest.mark.parametrize("bar", ["nan", "inf"])
def test_a_pressure_that_is_not_finite(run, model_file, tmp_path, bar):
    write(tmp_path / "cu.extxyz", bulk("Cu", "fcc", a=3.8, cubic=True))
    result = run("relax", tmp_path / "cu.extxyz", "--model", model_file, "--cell", "--pressure", bar, "-o", tmp_path / "out.extxyz")
    assert result.exit_code == 2
    assert result.stderr == f"Error: pressure is {bar} bar: give a finite number.\n"
    assert not (tmp_path / "out.extxyz").exists()
