"""Files: what they hold, crashes, resuming."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from ase.io import read
from dynamics.potentials import argon, cluster, fcc

from mosso.data.readers import read_structures
from mosso.dynamics.integrators import NVE, Langevin
from mosso.dynamics.simulate import load_state, save_state, simulate, start
from mosso.dynamics.trajectory import LogWriter, TrajectoryWriter, require_steps

SUFFIXES = ["extxyz", "traj"]


def run(path, structures, num_steps=6, state=None, **options):
    with TrajectoryWriter(path, **options) as frames, LogWriter(path.with_suffix(".csv"), **options) as log:
        return simulate(
            argon(), structures, Langevin(60.0), num_steps=num_steps, timestep=2.0, log_every=1, write_every=2,
            on_log=log, on_frame=frames, state=state,
        )  # fmt: skip


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_hold_the_state(tmp_path, suffix):
    path = tmp_path / f"out.{suffix}"
    state = run(path, fcc())
    frames = read(path, ":")
    assert [frame.info["step"] for frame in frames] == [0, 2, 4, 6]
    last = frames[-1]
    assert last.info["time"] == 12.0
    assert last.pbc.all()
    assert last.get_chemical_symbols() == ["Ar"] * 32
    np.testing.assert_allclose(last.positions, state.batch.positions_N3.numpy(), atol=1e-9)
    np.testing.assert_allclose(last.get_momenta(), state.momenta_N3.numpy(), atol=1e-9)
    np.testing.assert_allclose(last.get_forces(), state.forces_N3.numpy(), atol=1e-9)
    np.testing.assert_allclose(last.get_potential_energy(), float(state.energy_B), rtol=1e-14)
    np.testing.assert_allclose(last.get_stress(voigt=False), state.stress_B33[0].numpy(), atol=1e-12)
    np.testing.assert_allclose(last.cell, state.batch.cell_B33[0].numpy())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_say_which_atoms_are_fixed(tmp_path, suffix):
    path, fixed = tmp_path / f"out.{suffix}", np.arange(32) < 3
    run(path, replace(fcc(), fixed=fixed))
    for structure in read_structures(path):
        np.testing.assert_array_equal(structure.fixed, fixed)
    assert "momenta" in read(path).arrays


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_systems_of_a_batch_follow_each_other(tmp_path, suffix):
    path = tmp_path / f"out.{suffix}"
    run(path, [fcc(), cluster()])
    frames = read(path, ":")
    assert [(f.info["step"], f.info["system"], len(f)) for f in frames[:4]] == [(0, 0, 32), (0, 1, 7), (2, 0, 32), (2, 1, 7)]
    assert not frames[1].pbc.any()
    assert "stress" not in frames[1].calc.results


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_are_on_disk_as_soon_as_they_are_written(tmp_path, suffix):
    path = tmp_path / f"out.{suffix}"
    seen = []
    with TrajectoryWriter(path) as writer:

        def write(state):
            writer(state)
            seen.append(len(read(path, ":")))

        simulate(argon(), cluster(), NVE(), num_steps=3, temperature_init=10.0, write_every=1, on_frame=write)
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_resuming_after_a_crash_gives_the_files_of_an_uninterrupted_run(tmp_path, suffix):
    whole, broken = tmp_path / f"whole.{suffix}", tmp_path / f"broken.{suffix}"
    structures = [fcc(), cluster()]
    run(whole, structures, num_steps=12)
    half = run(broken, structures, num_steps=6)
    save_state(tmp_path / "state.npz", half)
    # the run went on to step 9 after the checkpoint, then died in the middle of a line
    run(broken, structures, num_steps=3, state=half, append=True)
    with open(broken.with_suffix(".csv"), "ab") as file:
        file.write(b"10,0.02,0,-1.2")
    if suffix == "extxyz":
        with open(broken, "ab") as file:
            file.write(b"32\nLattice=")
    state = load_state(tmp_path / "state.npz")
    run(broken, structures, num_steps=6, state=state, append=True, last_step=int(state.step))
    assert whole.with_suffix(".csv").read_bytes() == broken.with_suffix(".csv").read_bytes()
    if suffix == "extxyz":
        assert whole.read_bytes() == broken.read_bytes()
    ours, theirs = read(whole, ":"), read(broken, ":")
    assert [f.info for f in ours] == [f.info for f in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a.positions, b.positions)
        assert np.array_equal(a.get_momenta(), b.get_momenta())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_going_on_from_step_0_writes_it_once(tmp_path, suffix):
    path = tmp_path / f"out.{suffix}"
    state = run(path, cluster(), num_steps=0)
    run(path, cluster(), num_steps=4)
    run(path, None, num_steps=4, state=state, append=True, last_step=0)
    assert [frame.info["step"] for frame in read(path, ":")] == [0, 2, 4]
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 5


@pytest.mark.parametrize("name", ["out.extxyz", "out.traj", "out.csv"])
def test_what_a_file_lacks_of_a_run_is_said(tmp_path, name):
    """Frames at 0, 2, 4, 6, and lines at every step; the file of two systems."""
    run(tmp_path / "out.extxyz", [fcc(), cluster()])
    run(tmp_path / "out.traj", [fcc(), cluster()])
    path = tmp_path / name
    whole = path.read_bytes()
    steps = range(0, 7, 1 if name == "out.csv" else 2)
    require_steps(path, steps, num_systems=2)
    require_steps(path, steps[:2], num_systems=2)
    with pytest.raises(ValueError, match=f"{name} lacks step 8, but the run was at step 8"):
        require_steps(path, [*steps, 8])
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"{name} lacks step \d.*start a new run"):
            require_steps(path, steps, num_systems=2)
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} is not there"):
        require_steps(path, steps)


def test_a_gap_in_a_trajectory_is_seen(tmp_path):
    path = tmp_path / "out.extxyz"
    run(path, cluster())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:9] + lines[18:]))
    assert [frame.info["step"] for frame in read(path, ":")] == [0, 4, 6]
    with pytest.raises(ValueError, match="lacks step 2"):
        require_steps(path, range(0, 7, 2))


def test_a_cut_frame_is_removed_without_a_step_given(tmp_path):
    path = tmp_path / "out.xyz"
    run(path, cluster())
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    TrajectoryWriter(path, append=True).close()
    assert len(read(path, ":")) == 3
    assert content.startswith(path.read_bytes())


def test_without_append_files_start_again_and_with_it_they_may_be_missing(tmp_path):
    path = tmp_path / "out.extxyz"
    run(path, cluster())
    run(path, cluster(), num_steps=2)
    assert len(read(path, ":")) == 2
    for suffix in SUFFIXES:
        fresh = tmp_path / f"fresh.{suffix}"
        run(fresh, cluster(), num_steps=2, append=True, last_step=0)
        assert len(read(fresh, ":")) == 2


def test_log_is_a_table_with_units(tmp_path):
    run(tmp_path / "out.extxyz", [fcc(), cluster()], num_steps=3)
    with open(tmp_path / "out.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["system"]) for row in rows] == [(str(s), str(b)) for s in range(4) for b in range(2)]
    assert float(rows[2]["time[ps]"]) == 0.002
    assert float(rows[0]["density[g/cm3]"]) > 1.0
    assert rows[1]["density[g/cm3]"] == ""


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="extxyz"):
        TrajectoryWriter(tmp_path / "out.pdb")


def test_a_flat_structure_keeps_its_partial_periodicity(tmp_path):
    from dataclasses import replace

    path = tmp_path / "slab.extxyz"
    with TrajectoryWriter(path) as writer:
        writer(start(argon(), replace(fcc(), pbc=np.array([True, True, False])), 10.0))
    assert read(path).pbc.tolist() == [True, True, False]
