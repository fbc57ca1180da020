"""A captured evaluation gives what the eager one gives, for moved atoms, other edges, other cells, and after outgrowing its buffers."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from models.zoo import potential
from systems import water_box

from mosso.dynamics.integrators import Langevin
from mosso.dynamics.simulate import simulate
from mosso.engine.capture import CapturedPotential
from mosso.kernels import dispatch
from mosso.models.tabulated_mace import TabulatedMACE

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(params=["default", "triton"])
def ops(request: pytest.FixtureRequest) -> Iterator[None]:
    """The default of every op, or Triton for all of them, and with them the tabulated form in fp32."""
    with dispatch.prefer("triton") if request.param == "triton" else nullcontext():
        yield


@pytest.mark.usefixtures("ops")
@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("name", ["mace-plain", "mace-density-agnesi-zbl", "mace-degree-3-three-layers"])
def test_replays_follow_the_inputs(name: str, precision: str) -> None:
    eager = potential(name, precision, device="cuda")
    tabulated = precision == "fp32" and dispatch.preferred("tabulated_convolution", eager.device) == "triton"
    assert isinstance(eager.evaluator, TabulatedMACE) == tabulated
    captured = CapturedPotential(eager)
    batch = eager.batch([water_box(2, seed=1), water_box(1, seed=2)])
    generator = torch.Generator("cuda").manual_seed(0)
    tolerance = 1e-10 if precision == "fp64" else 1e-5
    for _ in range(4):
        noise = 0.05 * torch.randn(batch.positions_N3.shape, generator=generator, device="cuda", dtype=torch.float64)
        moved = replace(batch, positions_N3=batch.positions_N3 + noise, cell_B33=1.001 * batch.cell_B33)
        graph = eager.graph(moved)
        for stress in (True,):
            want, got = eager.evaluate(moved, graph, stress=stress), captured.evaluate(moved, graph, stress=stress)
            torch.testing.assert_close(got.energy, want.energy, rtol=tolerance, atol=0)
            torch.testing.assert_close(got.forces, want.forces, rtol=0, atol=tolerance * float(want.forces.abs().max()))
            torch.testing.assert_close(got.stress, want.stress, rtol=0, atol=tolerance * float(want.stress.abs().max()))
        batch = moved
    assert captured.num_recordings == 1
    squeezed = replace(batch, positions_N3=0.8 * batch.positions_N3, cell_B33=0.8 * batch.cell_B33)
    graph = eager.graph(squeezed)
    torch.testing.assert_close(
        captured.evaluate(squeezed, graph, stress=True).energy, eager.evaluate(squeezed, graph).energy, rtol=tolerance, atol=0
    )
    assert captured.num_recordings == 2


def test_a_cell_that_is_written_to() -> None:
    """The same tensor with other numbers, in inference mode and out of it."""
    for mode in (nullcontext, torch.inference_mode):
        with mode():
            eager = potential("mace-plain", "fp64", device="cuda")
            captured = CapturedPotential(eager)
            batch = eager.batch([water_box(2, seed=1)])
            graph = eager.graph(batch)
            for _ in range(3):
                for _ in range(2):
                    want, got = eager.evaluate(batch, graph), captured.evaluate(batch, graph)
                    torch.testing.assert_close(got.energy, want.energy, rtol=1e-12, atol=0)
                batch.cell_B33.mul_(1.01)
            assert captured.num_recordings == 1


@pytest.mark.parametrize("num_edges", [20, 300])
def test_chunks_of_edges(num_edges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of the convolution where there is scratch for so many edges at a time: eager and recorded the same."""
    fused = pytest.importorskip("mosso.kernels.fused.tabulated_convolution")
    eager = potential("mace-residual-first", "fp32", device="cuda")
    assert isinstance(eager.evaluator, TabulatedMACE)
    batch = eager.batch([water_box(3, seed=1)])
    graph = eager.graph(batch)
    whole = eager.evaluate(batch, graph, stress=True)
    channels = eager.model.spec.num_channels
    monkeypatch.setattr(fused, "SCRATCH_BYTES", (num_edges * 4 * (4 * channels + 16),) * 2)
    chunks, cut = [], fused._chunks
    monkeypatch.setattr(fused, "_chunks", lambda *arguments: chunks.append(len(cut(*arguments))) or cut(*arguments))
    chunked = eager.evaluate(batch, graph, stress=True)
    assert min(chunks) > 1
    torch.testing.assert_close(chunked.forces, whole.forces, rtol=0, atol=1e-6 * float(whole.forces.abs().max()))
    captured = CapturedPotential(eager)
    for _ in range(20):
        again, got = eager.evaluate(batch, graph, stress=True), captured.evaluate(batch, graph, stress=True)
        assert torch.equal(again.forces, chunked.forces) and torch.equal(got.forces, chunked.forces)
        assert torch.equal(again.stress, chunked.stress) and torch.equal(got.stress, chunked.stress)


def test_results_are_not_overwritten_by_the_next_replay() -> None:
    captured = CapturedPotential(potential("mace-plain", "fp64", device="cuda"))
    batch = captured.batch([water_box(1, seed=2)])
    first = captured.evaluate(batch, captured.graph(batch))
    kept = first.forces.clone()
    moved = replace(batch, positions_N3=batch.positions_N3 * 1.02)
    captured.evaluate(moved, captured.graph(moved))
    assert torch.equal(first.forces, kept)


def test_dynamics_on_a_captured_potential() -> None:
    eager = potential("mace-plain", "fp64", device="cuda")
    states = [
        simulate(p, [water_box(2, seed=1)], Langevin(300.0), num_steps=30, timestep=0.2, temperature_init=50.0, seed=4)
        for p in (eager, CapturedPotential(eager))
    ]
    torch.testing.assert_close(states[0].batch.positions_N3, states[1].batch.positions_N3, rtol=0, atol=1e-9)
