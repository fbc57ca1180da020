"""mosso md: files, the final table, going on after an interrupt."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.io import read, write

FILES = ["traj.extxyz", "traj.log.csv", "traj.checkpoint.npz"]


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def water(tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    write(folder / "water.xyz", molecule("H2O"))
    return folder / "water.xyz"


@pytest.fixture
def copper(tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    write(folder / "copper.extxyz", bulk("Cu", "fcc", a=3.7, cubic=True))
    return folder / "copper.extxyz"


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "traj.extxyz"


def log_of(out) -> list[dict[str, str]]:
    with open(out.with_suffix(".log.csv"), newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--timestep", 0.25, "timestep was 0.5, now 0.25"),
        ("--temperature", 500, "ensemble was Langevin(temperature=300.0, friction=0.01), now Langevin(temperature=500.0, friction=0.01)"),
        ("--thermostat", "nose-hoover", "ensemble was Langevin(temperature=300.0, friction=0.01), now NoseHoover("),
        ("--precision", "fp64", "precision was fp32, now fp64"),
        ("--seed", 7, "seed was 0, now 7"),
        ("--log-every", 5, "log_every was 10, now 5"),
        ("--write-every", 1, "write_every was 2, now 1"),
    ],
)
def test_resume_refuses_other_settings(run, copper, model_file, out, flag, value, named):
    common = ("md", copper, "--model", model_file, "--write-every", 2, "-o", out)
    assert run(*common, "--steps", 2).exit_code == 0
    before = {path: path.read_bytes() for path in out.parent.iterdir()}
    result = run(*common, "--steps", 4, "--resume", flag, value)
    assert result.exit_code == 2
    assert named in result.stderr
    assert {path: path.read_bytes() for path in out.parent.iterdir()} == before


def test_files_and_table(run, run_json, copper, model_file, out):
    arguments = ("md", copper, "--model", model_file, "--steps", 25, "--log-every", 5, "--write-every", 10, "--timestep", 1, "-o", out)
    document = run_json(*arguments)
    assert names(out.parent) == sorted(FILES)
    frames = read(out, ":")
    assert [atoms.info["step"] for atoms in frames] == [0, 10, 20]
    assert frames[-1].get_forces().shape == (4, 3)
    assert frames[-1].get_momenta().any()
    rows = log_of(out)
    assert [int(row["step"]) for row in rows] == [0, 5, 10, 15, 20, 25]
    assert document["completed"]
    assert (document["reached_step"], document["precision"], document["model"], document["device"]) == (25, "fp32", "tiny", "cpu")
    kelvin = [float(row["temperature[K]"]) for row in rows]
    assert document["temperature"] == pytest.approx(np.mean(kelvin), rel=1e-6)
    assert document["temperature_std"] == pytest.approx(np.std(kelvin), rel=1e-6)
    assert document["density"] == pytest.approx(4 * 63.546 / 0.602214076 / 3.7**3, rel=1e-5)
    assert np.isfinite(document["pressure"])
    assert document["ns_per_day"] == pytest.approx(document["steps_per_second"] * 1e-6 * 86400)
    slope = np.polyfit([float(row["time[ps]"]) for row in rows], [float(row["conserved_energy[eV]"]) for row in rows], 1)[0]
    assert document["drift"] == pytest.approx(slope / 4 * 1000, rel=1e-3, abs=1e-3)
    text = run(*arguments).stdout
    for word in ("tiny", "fp32", "cpu", "temperature", "+-", "meV/atom/ps", "bar", "g/cm3", "steps/s", "ns/day", "traj.extxyz"):
        assert word in text


def test_a_molecule_has_no_pressure(run, run_json, water, model_file, out):
    arguments = ("md", water, "--model", model_file, "--steps", 3, "-o", out)
    document = run_json(*arguments)
    assert document["pressure"] is None
    assert document["density"] is None
    assert "nan" not in run(*arguments).stdout


def test_constant_energy_is_constant(run_json, water, model_file, out):
    arguments = ("--ensemble", "nve", "--temperature", 100, "--steps", 200, "--timestep", 0.1, "--precision", "fp64")
    document = run_json("md", water, "--model", model_file, *arguments, "-o", out)
    energy = [float(row["total_energy[eV]"]) for row in log_of(out)]
    assert np.ptp(energy) < 2e-4
    assert abs(document["drift"]) < 5


def test_pressure_moves_the_cell(run_json, copper, model_file, out):
    arguments = ("--ensemble", "npt", "--pressure", 1e5, "--steps", 20)
    run_json("md", copper, "--model", model_file, *arguments, "--write-every", 20, "-o", out)
    first, last = read(out, 0), read(out, -1)
    assert abs(last.get_volume() - first.get_volume()) > 1e-4


@pytest.mark.parametrize("thermostat", ["langevin", "nose-hoover"])
def test_constrained_atoms_stay(run_json, model_file, out, tmp_path, thermostat):
    atoms = bulk("Cu", "fcc", a=3.7, cubic=True)
    atoms.set_constraint(FixAtoms([0, 2]))
    write(tmp_path / "held.extxyz", atoms)
    common = ("--model", model_file, "--thermostat", thermostat)
    run_json("md", tmp_path / "held.extxyz", *common, "--steps", 10, "--write-every", 10, "-o", out)
    moved = np.abs(read(out, -1).positions - atoms.positions).max(axis=1)
    assert (moved[[0, 2]] == 0).all()
    assert (moved[[1, 3]] > 0).all()


def test_seeds(run_json, water, model_file, out):
    positions = []
    for seed in (1, 1, 2):
        run_json("md", water, "--model", model_file, "--steps", 5, "--write-every", 5, "--seed", seed, "-o", out)
        positions.append(read(out, -1).positions)
    assert np.array_equal(positions[0], positions[1])
    assert not np.allclose(positions[0], positions[2])


def test_the_coupling_decides_what_of_the_cell_moves(run_json, copper, model_file, out):
    arguments = ("--ensemble", "npt", "--pressure", 1e5, "--steps", 20, "--write-every", 20)
    for coupling, num_lengths, oblique in (("isotropic", 1, False), ("diagonal", 3, False), ("anisotropic", 3, True)):
        run_json("md", copper, "--model", model_file, *arguments, "--coupling", coupling, "-o", out)
        cell = np.array(read(out, -1).cell)
        assert len(set(np.diag(cell).round(9))) == num_lengths
        assert (np.abs(cell - np.diag(np.diag(cell))).max() > 1e-4) == oblique


@pytest.mark.parametrize("suffix", [".extxyz", ".traj"])
@pytest.mark.parametrize("ensemble", ["nve", "nvt", "npt", "nvt --thermostat nose-hoover"])
def test_resuming_is_the_same_as_going_on(run_json, copper, model_file, tmp_path, ensemble, suffix):
    common = ("md", copper, "--model", model_file, "--ensemble", *ensemble.split(), "--log-every", 3, "--write-every", 4)
    whole, parts = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}"
    run_json(*common, "--steps", 20, "-o", whole)
    run_json(*common, "--steps", 10, "-o", parts)
    document = run_json(*common, "--steps", 20, "--resume", "-o", parts)
    assert (document["first_step"], document["reached_step"]) == (10, 20)
    for one, other in zip(read(whole, ":"), read(parts, ":"), strict=True):
        assert one.info["step"] == other.info["step"]
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-9)
        np.testing.assert_allclose(one.get_momenta(), other.get_momenta(), atol=1e-9)
        np.testing.assert_allclose(one.cell, other.cell, atol=1e-9)
    assert log_of(whole) == log_of(parts)
    with np.load(whole.with_suffix(".checkpoint.npz")) as one, np.load(parts.with_suffix(".checkpoint.npz")) as other:
        assert one["chain_B2M"].shape == (1, 2, 3 if "nose" in ensemble else 0)
        assert one.files == other.files
        for name in one.files:
            assert one[name].tobytes() == other[name].tobytes(), name


def test_a_chain_of_thermostats_holds_the_temperature_by_itself(run_json, copper, model_file, out):
    """It adds no noise: the conserved energy is as constant as at constant energy, and the seed makes the start alone."""
    common = ("md", copper, "--model", model_file, "--thermostat", "nose-hoover", "--log-every", 1, "--precision", "fp64", "-o", out)
    run_json(*common, "--steps", 400, "--timestep", 0.5, "--relaxation-time", 20)
    rows = log_of(out)
    assert np.ptp([float(row["conserved_energy[eV]"]) for row in rows]) < 1e-3
    assert np.ptp([float(row["total_energy[eV]"]) for row in rows]) > 2e-2
    run_json(*common, "--steps", 400, "--timestep", 0.5, "--relaxation-time", 40)
    assert log_of(out)[0] == rows[0]
    assert log_of(out)[-1] != rows[-1]


@pytest.mark.parametrize("ensemble", ["nve", "npt"])
def test_a_chain_of_thermostats_is_for_constant_volume_and_temperature(run, copper, model_file, out, ensemble):
    result = run("md", copper, "--model", model_file, "--ensemble", ensemble, "--thermostat", "nose-hoover", "-o", out)
    assert result.exit_code == 2
    assert f"--thermostat nose-hoover goes with --ensemble nvt, not {ensemble}" in result.stderr
    assert names(out.parent) == []


def test_resuming_what_is_done(run, run_json, water, model_file, out):
    common = ("md", water, "--model", model_file, "--steps", 4, "-o", out)
    run_json(*common)
    before = out.read_text()
    document = run_json(*common, "--resume")
    assert document["completed"]
    assert document["reached_step"] == 4
    assert out.read_text() == before
    for steps in (4, 3):
        result = run(*common, "--resume", "--steps", steps)
        assert result.exit_code == 0
        assert result.stderr == f"Nothing was left to do: the run is already at step 4, and --steps {steps} counts from its start.\n"
        assert out.read_text() == before


def tampered(path, name: str) -> None:
    """The checkpoint without one of its arrays."""
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key != name}
    np.savez(path, **arrays)


def test_resuming_from_a_checkpoint_that_lacks_something(run, run_json, water, model_file, out):
    common = ("md", water, "--model", model_file, "-o", out)
    run_json(*common, "--steps", 4)
    tampered(out.with_suffix(".checkpoint.npz"), "momenta_N3")
    before = {path: path.read_bytes() for path in out.parent.iterdir()}
    result = run(*common, "--steps", 8, "--resume")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {out.with_suffix('.checkpoint.npz')} is not complete, it lacks momenta_N3: ")
    assert len(result.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in out.parent.iterdir()} == before


@pytest.mark.parametrize("suffix", [".extxyz", ".traj", ".log.csv"])
@pytest.mark.parametrize("left", [None, 0, 40, -50], ids=["gone", "empty", "cut in its first frame", "cut in its last"])
def test_resuming_with_less_than_the_checkpoint_says(run, run_json, copper, model_file, tmp_path, suffix, left):
    out = tmp_path / ("traj.extxyz" if suffix == ".log.csv" else f"traj{suffix}")
    common = ("md", copper, "--model", model_file, "--write-every", 2, "--log-every", 1, "-o", out)
    run_json(*common, "--steps", 6)
    victim = tmp_path / f"traj{suffix}"
    if left is None:
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:left])
    before = {path: path.read_bytes() for path in tmp_path.glob("traj*")}
    result = run(*common, "--steps", 8, "--resume")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    for words in (str(victim), "at step 6 already", "put the whole file back, or start a new run"):
        assert words in result.stderr
    assert {path: path.read_bytes() for path in tmp_path.glob("traj*")} == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--timestep", "-1"), "timestep is -1.0 fs: give a positive, finite one (0.5 is usual)."),
        (("--timestep", "inf"), "timestep is inf fs: give a positive, finite one (0.5 is usual)."),
        (("--temperature", "inf"), "temperature is inf K: give a finite one of zero or more."),
        (("--seed", 10**23), f"The seed {10**23} does not fit into 64 bits: give one from {-(2**63)} to {2**63 - 1}."),
        (("--ensemble", "npt", "--pressure", "1e12"), "A pressure of 1e+12 bar would change the volume by"),
        (("--thermostat", "nose-hoover", "--relaxation-time", "0"), "relaxation_time is 0.0 fs: give a positive, finite one"),
    ],
)
def test_numbers_out_of_reason_are_refused_one_by_one(run, copper, model_file, out, arguments, sentence):
    result = run("md", copper, "--model", model_file, "--steps", 2, "-o", out, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {sentence}")
    assert len(result.stderr.splitlines()) == 1
    assert names(out.parent) == []


def test_resuming_without_a_checkpoint(run, water, model_file, out):
    result = run("md", water, "--model", model_file, "--resume", "-o", out)
    assert result.exit_code == 2
    assert "checkpoint" in result.stderr
    assert names(out.parent) == []


def test_resuming_with_other_atoms(run, run_json, water, model_file, out, tmp_path):
    run_json("md", water, "--model", model_file, "--steps", 4, "-o", out)
    kept = out.read_text()
    write(tmp_path / "other.xyz", Atoms("CO", positions=[[0, 0, 0], [0, 0, 1.1]]))
    result = run("md", tmp_path / "other.xyz", "--model", model_file, "--steps", 9, "--resume", "-o", out)
    assert result.exit_code == 2
    assert "other atoms" in result.stderr
    assert out.read_text() == kept


def test_a_new_run_replaces_the_old_one(run_json, water, model_file, out):
    run_json("md", water, "--model", model_file, "--steps", 30, "--write-every", 10, "-o", out)
    run_json("md", water, "--model", model_file, "--steps", 10, "--write-every", 10, "-o", out)
    assert [atoms.info["step"] for atoms in read(out, ":")] == [0, 10]
    assert [int(row["step"]) for row in log_of(out)] == [0, 10]


def test_several_structures_are_refused(run, model_file, out, tmp_path):
    write(tmp_path / "two.extxyz", [molecule("H2O"), molecule("H2O")])
    result = run("md", tmp_path / "two.extxyz", "--model", model_file, "-o", out)
    assert result.exit_code == 2
    assert "2 structures" in result.stderr


def test_the_input_is_not_overwritten(run, copper, model_file):
    before = copper.read_text()
    result = run("md", copper, "--model", model_file, "--steps", 2, "-o", copper)
    assert result.exit_code == 2
    assert "replace the structure" in result.stderr
    assert copper.read_text() == before


def test_what_explodes_stops_with_a_sentence(run, copper, model_file, out):
    result = run("md", copper, "--model", model_file, "--steps", 2000, "--timestep", 300, "--temperature", 5000, "-o", out)
    assert result.exit_code == 2
    assert "unstable" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert all(np.isfinite(atoms.positions).all() for atoms in read(out, ":"))


def start_and_stop(structure, model_file, out, number) -> tuple[int, str, str]:
    """A long run in a process of its own, stopped by a signal after some frames: exit code, stdout, stderr."""
    command = [sys.executable, "-m", "mosso.cli", "md", structure, "--model", model_file, "--steps", 1000000]
    command += ["--write-every", 2, "--log-every", 1, "-o", out, "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 60
        while not (out.exists() and out.stat().st_size > 5000) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_everything_in_order(run_json, copper, model_file, out, number):
    code, stdout, stderr = start_and_stop(copper, model_file, out, number)
    assert code == 130, stderr
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    document = json.loads(stdout)
    assert not document["completed"]
    steps = [atoms.info["step"] for atoms in read(out, ":")]
    assert steps == list(range(0, 2 * len(steps), 2))
    assert document["reached_step"] == steps[-1]
    assert names(out.parent) == sorted(FILES)

    goal = steps[-1] + 4
    run_json("md", copper, "--model", model_file, "--steps", goal, "--write-every", 2, "--log-every", 1, "--resume", "-o", out)
    assert [atoms.info["step"] for atoms in read(out, ":")] == list(range(0, goal + 1, 2))
    assert [int(row["step"]) for row in log_of(out)] == list(range(goal + 1))
    whole = out.with_name("whole.extxyz")
    run_json("md", copper, "--model", model_file, "--steps", goal, "--write-every", 2, "--log-every", 1, "-o", whole)
    assert out.read_bytes() == whole.read_bytes()
    assert out.with_suffix(".log.csv").read_bytes() == whole.with_suffix(".log.csv").read_bytes()


def test_a_disk_that_is_full_is_one_sentence(run, copper, model_file, out, monkeypatch):
    def full(self, row):
        raise OSError(28, "No space left on device", str(self.path))

    monkeypatch.setattr("mosso.dynamics.trajectory.LogWriter.__call__", full)
    result = run("md", copper, "--model", model_file, "--steps", 40, "--log-every", 1, "-o", out)
    assert result.exit_code != 0
    assert "No space left" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_killed_run_goes_on_from_its_checkpoint(run_json, copper, model_file, out):
    """The trajectory is ahead of the checkpoint then, and may end in half a frame."""
    start_and_stop(copper, model_file, out, signal.SIGKILL)
    with open(out, "a") as file:
        file.write('4\nLattice="3.7 0 0')
    run_json("md", copper, "--model", model_file, "--steps", 6, "--write-every", 2, "--log-every", 1, "--resume", "-o", out)
    assert [atoms.info["step"] for atoms in read(out, ":")] == [0, 2, 4, 6]
    assert [int(row["step"]) for row in log_of(out)] == list(range(7))
