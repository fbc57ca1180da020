"""Captured dynamics on a CUDA device: the numbers of the eager loop, rollback, and no wait for the device inside a block."""

from functools import partial

import numpy as np
import pytest
import torch
from dynamics.test_blocks import Stubborn, Watched
from models.zoo import checkpoint, potential
from systems import water_box

from mosso.data.structure import Structure
from mosso.dynamics import blocks
from mosso.dynamics.integrators import NVE, Langevin, NoseHoover, StochasticCellRescaling
from mosso.dynamics.leaves import mapped
from mosso.dynamics.relax import relax
from mosso.dynamics.runners import CapturedRunner
from mosso.dynamics.simulate import simulate
from mosso.dynamics.trajectory import LogWriter, TrajectoryWriter
from mosso.dynamics.writing import WriterThread
from mosso.engine.potential import Potential
from mosso.graph.device_list import CANDIDATES, EDGES, MOVED, DeviceList
from mosso.kernels import dispatch
from mosso.models.tabulated_mace import TabulatedMACE

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ENSEMBLES = {
    "nve": NVE(),
    "langevin": Langevin(300.0, 0.02),
    "nose-hoover": NoseHoover(300.0, 50.0),
    "npt": StochasticCellRescaling(300.0, 1000.0, 0.02, 200.0, 1e-4),
    "npt-anisotropic": StochasticCellRescaling(300.0, 1000.0, 0.02, 200.0, 1e-4, "anisotropic"),
}
OPTIONS = {"num_steps": 24, "timestep": 0.25, "temperature_init": 300.0, "seed": 4, "log_every": 3, "write_every": 5}


def on_cuda() -> Potential:
    return potential("mace-density-agnesi-zbl", "fp64", device="cuda")


def boxes() -> list[Structure]:
    fixed = np.zeros(24, dtype=bool)
    fixed[:3] = True
    first, second = water_box(2, seed=1), water_box(2, seed=2)
    return [first, Structure(second.numbers, second.positions, second.cell, second.pbc, fixed=fixed[: len(second)])]


@pytest.fixture(autouse=True)
def captured(monkeypatch):
    """Whatever the default is."""
    monkeypatch.setitem(dispatch.ON_CUDA, "neighbor_list", "triton")


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(Watched, "made", [])
    monkeypatch.setattr("mosso.dynamics.simulate.Blocks", Watched)
    return Watched.made


def assert_close(ours, theirs) -> None:
    for one, other in ((ours.batch.positions_N3, theirs.batch.positions_N3), (ours.momenta_N3, theirs.momenta_N3)):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=0, atol=1e-8)
    torch.testing.assert_close(ours.batch.cell_B33.cpu(), theirs.batch.cell_B33.cpu(), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.exchanged_B.cpu(), theirs.exchanged_B.cpu(), rtol=0, atol=1e-8)
    assert int(ours.step) == int(theirs.step)
    assert (ours.stress_B33 is None) == (theirs.stress_B33 is None)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_captured_dynamics_are_those_of_the_cpu(name, watched) -> None:
    results = []
    for pot in (potential("mace-density-agnesi-zbl", "fp64"), on_cuda()):
        rows, frames = [], []
        results.append((simulate(pot, boxes(), ENSEMBLES[name], on_log=rows.append, on_frame=frames.append, **OPTIONS), rows, frames))
    (cpu, rows, frames), (cuda, rows_cuda, frames_cuda) = results
    assert isinstance(watched[1]._runner, CapturedRunner)
    assert_close(cuda, cpu)
    assert [row.step for row in rows_cuda] == [row.step for row in rows] == list(range(0, 25, 3))
    for one, other in zip(rows_cuda, rows, strict=True):
        for column in ("time", "total_energy", "conserved_energy", "temperature", "density"):
            np.testing.assert_allclose(getattr(one, column), getattr(other, column), rtol=1e-7)
        np.testing.assert_allclose(one.pressure, other.pressure, rtol=1e-5, atol=0.1)
    assert [int(frame.step) for frame in frames_cuda] == [int(frame.step) for frame in frames] == list(range(0, 25, 5))
    for one, other in zip(frames_cuda, frames, strict=True):
        assert one.batch.positions_N3.device.type == "cpu"
        assert_close(one, other)
    held = boxes()[1].fixed
    assert (cuda.momenta_N3[-len(held) :][torch.as_tensor(held, device="cuda")] == 0).all()


def test_a_loop_of_triton_ops_alone_is_that_of_the_cpu(watched) -> None:
    with dispatch.prefer("triton"):
        cuda = simulate(on_cuda(), boxes(), ENSEMBLES["langevin"], **OPTIONS)
    assert isinstance(watched[0]._runner, CapturedRunner)
    assert_close(cuda, simulate(potential("mace-density-agnesi-zbl", "fp64"), boxes(), ENSEMBLES["langevin"], **OPTIONS))


def test_the_tabulated_form_with_all_ops_in_triton_moves_as_the_stock_one(watched) -> None:
    name = "mace-density-agnesi-zbl"
    with dispatch.prefer("triton"):
        fast = Potential(checkpoint(name), device="cuda", precision="fp32")
        assert isinstance(fast.evaluator, TabulatedMACE)
        cuda = simulate(fast, boxes(), ENSEMBLES["npt-anisotropic"], **OPTIONS)
    cpu = simulate(potential(name, "fp32"), boxes(), ENSEMBLES["npt-anisotropic"], **OPTIONS)
    assert isinstance(watched[0]._runner, CapturedRunner)
    torch.testing.assert_close(cuda.batch.positions_N3.cpu(), cpu.batch.positions_N3, rtol=0, atol=1e-4)
    torch.testing.assert_close(cuda.forces_N3.cpu(), cpu.forces_N3, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["langevin", "npt-anisotropic"])
def test_rollback_gives_the_undisturbed_run(name, watched, monkeypatch) -> None:
    calm = simulate(on_cuda(), boxes(), ENSEMBLES[name], **OPTIONS)
    monkeypatch.setattr(blocks, "DeviceList", partial(DeviceList, edge_capacity=50, candidate_capacity=60))
    monkeypatch.setattr(blocks, "Pace", partial(Stubborn, 12))
    rough = simulate(on_cuda(), boxes(), ENSEMBLES[name], skin=0.05, **OPTIONS)
    assert any(cause & MOVED for cause in watched[1].causes)
    assert any(cause & (EDGES | CANDIDATES) for cause in watched[1].causes)
    assert_close(rough, calm)


def test_a_block_does_not_wait_for_the_device(watched, monkeypatch) -> None:
    launch, checked = Watched._launch, []

    def strict(self, first, last):
        if len(self._runner._graphs) < 4:  # recordings wait, once
            return launch(self, first, last)
        checked.append(first)
        try:
            torch.cuda.set_sync_debug_mode("error")
            return launch(self, first, last)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Watched, "_launch", strict)
    monkeypatch.setattr(blocks, "Pace", partial(Stubborn, 5))
    rows, frames = [], []
    options = OPTIONS | {"num_steps": 60}
    simulate(on_cuda(), boxes(), ENSEMBLES["langevin"], on_log=rows.append, on_frame=frames.append, **options)
    assert len(checked) > 3
    assert len(rows) == 21


def test_an_unstable_run_names_step_and_system() -> None:
    with pytest.raises(ValueError, match=r"unstable at step \d+ \(system"):
        simulate(on_cuda(), boxes(), NVE(), num_steps=200, timestep=100.0, temperature_init=3000.0)


def test_files_are_written_while_it_runs(tmp_path) -> None:
    from ase.io import read

    path = tmp_path / "out.traj"
    with TrajectoryWriter(path) as frames, LogWriter(tmp_path / "out.csv") as log, WriterThread() as writer:
        simulate(on_cuda(), boxes(), Langevin(300.0), on_log=writer.later(log), on_frame=writer.later(frames), **OPTIONS)
    assert [atoms.info["step"] for atoms in read(path, ":")][::2] == list(range(0, 25, 5))
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 2 * 9


@pytest.mark.parametrize("cell", [False, True])
def test_relaxation_is_that_of_the_cpu(cell) -> None:
    results = [relax(pot, boxes(), fmax=0.05, steps=30, cell=cell) for pot in (potential("mace-density-agnesi-zbl", "fp64"), on_cuda())]
    np.testing.assert_array_equal(results[0].num_steps, results[1].num_steps)
    np.testing.assert_allclose(results[0].energies, results[1].energies, rtol=1e-9)
    for one, other in zip(results[0].structures, results[1].structures, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-6)
        np.testing.assert_allclose(one.cell, other.cell, atol=1e-6)


def test_going_on_is_bit_identical_in_deterministic_mode(monkeypatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it in this mode
    torch.use_deterministic_algorithms(True)
    try:
        frames, again = [], []
        whole = simulate(on_cuda(), boxes(), Langevin(300.0), on_frame=frames.append, **OPTIONS)
        half = next(frame for frame in frames if int(frame.step) == 10)
        there = mapped(half, lambda tensor: tensor.cuda())
        resumed = simulate(on_cuda(), None, Langevin(300.0), on_frame=again.append, state=there, **OPTIONS | {"num_steps": 14})
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(whole.batch.positions_N3, resumed.batch.positions_N3)
    assert torch.equal(whole.momenta_N3, resumed.momenta_N3)
