"""Speculation and rollback: whatever goes wrong on the way, the numbers are those of a run where nothing does."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
from dynamics.potentials import argon, cluster, fcc
from dynamics.test_simulate import ENSEMBLES, IDS, same
from models.zoo import potential
from systems import water_box

from mosso.dynamics import blocks
from mosso.dynamics.blocks import MAX_BLOCK, Blocks, Pace
from mosso.dynamics.integrators import NVE
from mosso.dynamics.leaves import mapped
from mosso.dynamics.relax import relax
from mosso.dynamics.runners import CapturedRunner, EagerRunner, Kind
from mosso.dynamics.simulate import simulate, start
from mosso.graph.device_list import CANDIDATES, EDGES, MOVED, DeviceList
from mosso.graph.graph import Graph

HOT = 300.0  # K: argon atoms that leave a thin skin within some steps


class Stubborn(Pace):
    """Always as long as it was told at first, except right after a failure."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.wanted = steps

    def went_well(self, num_steps: int, used: float, seconds: float) -> None:
        self.steps = self.wanted


class Watched(Blocks):
    """Remembers the causes of its rollbacks and itself."""

    made: "list[Watched]" = []

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.causes: list[int] = []
        self.made.append(self)

    def _roll_back(self, block) -> None:
        self.causes.append(int(block.cause))
        super()._roll_back(block)


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr(Watched, "made", [])
    monkeypatch.setattr("mosso.dynamics.simulate.Blocks", Watched)
    return Watched.made


def trajectory(ensemble, structures, skin=1.0, num_steps=60):
    rows, frames = [], []
    options = {"num_steps": num_steps, "timestep": 4.0, "temperature_init": HOT, "seed": 5, "log_every": 3, "write_every": 7}
    end = simulate(argon(), structures, ensemble, skin=skin, on_log=rows.append, on_frame=frames.append, **options)
    return end, rows, frames


def assert_same(ours, theirs):
    same(ours[0], theirs[0])
    assert [row.step for row in ours[1]] == [row.step for row in theirs[1]] == list(range(0, 61, 3))
    for one, other in zip(ours[1], theirs[1], strict=True):
        for name in ("time", "potential_energy", "conserved_energy", "temperature", "pressure", "density", "max_force"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert [int(frame.step) for frame in ours[2]] == [int(frame.step) for frame in theirs[2]] == list(range(0, 61, 7))
    for one, other in zip(ours[2], theirs[2], strict=True):
        same(one, other)


@pytest.fixture(params=range(len(ENSEMBLES)), ids=IDS)
def case(request):
    structures = [fcc(), fcc(a=5.4, seed=1)] + ([cluster()] if request.param < 3 else [])
    return ENSEMBLES[request.param], structures


def test_leaving_the_skin_is_undone(case, watched, monkeypatch):
    monkeypatch.setattr(blocks, "Pace", partial(Pace, 1))
    monkeypatch.setattr(blocks, "MAX_BLOCK", 1)
    calm = trajectory(*case)
    monkeypatch.setattr(blocks, "Pace", partial(Stubborn, 60))
    rough = trajectory(*case, skin=0.3)
    assert watched[0].causes == []
    assert len(watched[1].causes) > 3
    assert set(watched[1].causes) == {MOVED}
    assert_same(rough, calm)


@pytest.mark.parametrize(("room", "bits"), [({"edge_capacity": 150}, EDGES), ({"candidate_capacity": 150}, CANDIDATES), ({}, 0)])
def test_lists_that_are_too_small_are_replaced(case, watched, monkeypatch, room, bits):
    calm = trajectory(*case)
    monkeypatch.setattr(blocks, "DeviceList", partial(DeviceList, **room))
    rough = trajectory(*case, skin=0.9)
    causes = [cause for cause in watched[1].causes if cause & ~MOVED]
    assert bool(causes) == bool(bits)
    assert all(cause & bits for cause in causes)
    assert_same(rough, calm)


def test_both_at_once(case, watched, monkeypatch):
    calm = trajectory(*case)
    monkeypatch.setattr(blocks, "DeviceList", partial(DeviceList, edge_capacity=10, candidate_capacity=10))
    monkeypatch.setattr(blocks, "Pace", partial(Stubborn, 30))
    rough = trajectory(*case, skin=0.2)
    assert {cause & MOVED for cause in watched[1].causes} == {0, MOVED}
    assert any(cause & (EDGES | CANDIDATES) for cause in watched[1].causes)
    assert_same(rough, calm)


def test_a_run_that_looks_ahead_throws_away_what_it_saw(watched, monkeypatch):
    """What a captured run does on CUDA: the next block has begun when the one before turns out to be wrong."""
    case = ENSEMBLES[1], [fcc(), cluster()]
    calm = trajectory(*case)
    monkeypatch.setattr("mosso.dynamics.runners.EagerRunner.ahead", 1)
    monkeypatch.setattr(blocks, "Pace", partial(Stubborn, 15))
    rough = trajectory(*case, skin=0.3)
    assert len(watched[1].causes) > 1
    assert_same(rough, calm)


def test_an_unstable_run_is_told_from_a_list_that_failed(watched):
    """A blow-up throws atoms out of the skin too, in the step after; the message names the step where it began."""
    messages = []
    for skin in (1.0, 0.2):
        with pytest.raises(ValueError, match="unstable at step") as caught:
            simulate(argon(), fcc(), ENSEMBLES[0], num_steps=500, timestep=200.0, temperature_init=600.0, skin=skin)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("steps", [3, 5, 6, 7])
def test_no_block_begins_with_a_recorded_step(steps, watched, monkeypatch):
    """Searches and records in one step would be a graph of its own."""
    kinds, step = [], EagerRunner.step
    monkeypatch.setattr(EagerRunner, "step", lambda self, kind: (kinds.append(kind), step(self, kind)))
    monkeypatch.setattr(blocks, "Pace", partial(Stubborn, steps))
    options = {"num_steps": 60, "timestep": 4.0, "temperature_init": HOT, "log_every": 3, "write_every": 6}
    simulate(argon(), [cluster(13)], NVE(), on_log=lambda row: None, on_frame=lambda state: None, **options)
    assert len(kinds) == 60 and set(kinds) == {Kind(True, False), Kind(False, False), Kind(False, True)}


def test_without_a_skin_every_step_searches(watched):
    calm = trajectory(ENSEMBLES[1], [fcc()])
    bare = trajectory(ENSEMBLES[1], [fcc()], skin=0.0)
    assert_same(bare, calm)


def test_pace_follows_the_atoms_and_the_clock():
    pace = Pace(4)
    pace.went_well(4, used=0.01, seconds=1e-3)
    assert pace.steps == 9  # at most twice and one
    pace.went_well(9, used=0.4, seconds=1e-3)
    assert pace.steps == 1 + int(8 * 0.6 / 0.4)
    pace.was_too_long(16)
    assert pace.steps == 8
    pace.was_too_long(1)
    assert pace.steps == 1
    pace.went_well(8, used=0.0, seconds=5.0)
    assert pace.steps == 1  # it would be late
    pace.went_well(400, used=0.0, seconds=0.01)
    assert pace.steps == MAX_BLOCK
    pace.went_well(3, used=float("nan"), seconds=0.01)
    assert pace.steps == 1


def test_a_liquid_needs_few_searches_and_no_second_tries(watched):
    state = start(argon(), fcc(3), 60.0)
    simulate(argon(), None, ENSEMBLES[1], num_steps=150, timestep=4.0, state=state)
    assert watched[0].num_rollbacks == 0
    assert watched[0].num_rebuilds < 30


class Replayed:
    """In place of a CUDA graph: makes the step again."""

    def __init__(self, step) -> None:
        self.replay = step


class Rehearsed(CapturedRunner):
    """The captured runner on the CPU: everything but CUDA itself, the buffers above all."""

    def __init__(self, step, state, marks) -> None:
        super().__init__(step, state, marks)
        self.kinds = []

    def _recorded(self, kind):
        self.kinds.append(kind)
        return super()._recorded(kind)

    def fetch(self, value):
        return mapped(value, torch.clone)

    def mark(self):
        return lambda: None


@pytest.fixture
def rehearsed(monkeypatch):
    """Blocks run as on CUDA, on the CPU."""
    runners = []

    def make(*arguments):
        runners.append(Rehearsed(*arguments))
        return runners[-1]

    def record(step_in_place, pool):
        # a recording computes nothing: put everything back
        runner = runners[-1]
        tensors = [*runner._buffers.values(), *runner._marks()]
        kept = [tensor.clone() for tensor in tensors]
        made = step_in_place()
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(value)
        return Replayed(step_in_place), mapped(made, lambda tensor: torch.full_like(tensor, 7))

    def warm_up(compute):
        return [compute() for _ in range(3)][-1]

    monkeypatch.setattr("mosso.dynamics.runners.record", record)
    monkeypatch.setattr("mosso.dynamics.runners.warm_up", warm_up)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(blocks, "CapturedRunner", make)
    monkeypatch.setattr(blocks, "can_capture", lambda potential: True)
    return runners


def test_steps_in_buffers_are_those_without(case, watched, rehearsed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "can_capture", lambda potential: False)
        # elements at the end of an array may round differently, so both runs have the padding
        patch.setattr(Graph, "trimmed", lambda graph: graph)
        calm = trajectory(*case)
    monkeypatch.setattr(blocks, "DeviceList", partial(DeviceList, edge_capacity=400))
    monkeypatch.setattr(blocks, "Pace", partial(Stubborn, 15))
    rough = trajectory(*case, skin=0.3)
    assert len(rehearsed) == 1
    assert len(rehearsed[0].kinds) >= 4
    assert any(cause & EDGES for cause in watched[1].causes)
    assert any(cause & MOVED for cause in watched[1].causes)
    assert_same(rough, calm)


@pytest.mark.parametrize("ensemble", [ENSEMBLES[1], ENSEMBLES[4]], ids=[IDS[1], IDS[4]])
def test_a_model_takes_the_padded_lists_of_a_captured_run(watched, rehearsed, monkeypatch, ensemble):
    structures = [water_box(2, seed=1), water_box(2, seed=2)]
    made = potential("mace-density-agnesi-zbl")
    options = {"num_steps": 12, "timestep": 0.5, "temperature_init": 300.0, "seed": 4, "log_every": 3}
    rows, again = [], []
    captured = simulate(made, structures, ensemble, on_log=rows.append, **options)
    monkeypatch.setattr(blocks, "can_capture", lambda potential: False)
    eager = simulate(made, structures, ensemble, on_log=again.append, **options)
    assert rehearsed[0].kinds
    torch.testing.assert_close(captured.batch.positions_N3, eager.batch.positions_N3, rtol=0, atol=1e-10)
    torch.testing.assert_close(captured.forces_N3, eager.forces_N3, rtol=0, atol=1e-8)
    for one, other in zip(rows, again, strict=True):
        np.testing.assert_allclose(one.pressure, other.pressure, rtol=1e-8)


@pytest.mark.parametrize("cell", [False, True])
def test_relaxation_in_buffers_is_that_without(rehearsed, monkeypatch, cell):
    structures = [fcc(1, a=5.2, seed=b, rattle=0.1) for b in range(2)]
    captured = relax(argon(), structures, fmax=0.02, cell=cell)
    monkeypatch.setattr(blocks, "can_capture", lambda potential: False)
    eager = relax(argon(), structures, fmax=0.02, cell=cell)
    assert captured.converged.all()
    for name in ("converged", "num_steps", "energies", "max_forces"):
        np.testing.assert_array_equal(getattr(captured, name), getattr(eager, name))
