"""Nothing in a step that is captured on CUDA waits for the device or brings constants to it.

Steps are made on the device ``meta``, whose tensors have shapes and no numbers, by the ops that run on CUDA: whatever asks for a
number fails there as it would in a recording.
"""

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import partial

import numpy as np
import pytest
import torch
from dynamics.test_simulate import ENSEMBLES, IDS
from models.zoo import potential
from systems import water_box
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mosso.data.structure import Structure
from mosso.dynamics.blocks import Blocks
from mosso.dynamics.integrators import StochasticCellRescaling
from mosso.dynamics.relax import _Descent
from mosso.dynamics.runners import Kind
from mosso.dynamics.simulate import _Dynamics
from mosso.dynamics.state import free_atoms, start
from mosso.engine.potential import Potential
from mosso.kernels import dispatch
from mosso.models.tabulated_mace import TabulatedMACE

pytest.importorskip("triton")

# Ops that wait on CUDA though they need no numbers here, by the beginning of their names.
WAITING = ("linalg_inv", "linalg_solve", "linalg_lu", "linalg_eig", "linalg_matrix_exp", "linalg_det", "linalg_svd", "linalg_cholesky")
# What makes tensors of numbers of the host, or numbers of tensors.
CROSSING = {
    *(torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, Tensor.new_tensor),
    *(Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy),
}
KINDS = [Kind(rebuild, recorded) for rebuild in (True, False) for recorded in (True, False)]
CELLS = StochasticCellRescaling(300.0, 1.0, 0.02, 200.0, 1e-4, "diagonal")


class NoCrossing(TorchFunctionMode):
    """Refuses functions between host and device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in CROSSING, function.__name__
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(place, (list, np.ndarray)) for place in places), "a list of places has to be uploaded"
        return function(*args, **(kwargs or {}))


class NoWaiting(TorchDispatchMode):
    """Refuses ops that wait for the device, or take more than one number from the host."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        assert not op.name().removeprefix("aten::").startswith(WAITING), op.name()
        for tensor in tree_leaves((args, kwargs)):
            assert not isinstance(tensor, Tensor) or tensor.device.type == "meta" or tensor.dim() == 0, (
                f"{op.name()} of a tensor of the host"
            )
        return op(*args, **(kwargs or {}))


def on_meta(value):
    """The same with tensors of the same shapes on the device meta, in anything that steps hold."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, tuple | list):
        return type(value)(*map(on_meta, value)) if hasattr(value, "_fields") else type(value)(map(on_meta, value))
    if isinstance(value, dict):
        return {key: on_meta(item) for key, item in value.items()}
    if isinstance(value, partial):  # an evaluator with its tables, which cannot be made of tensors without numbers
        return partial(getattr(on_meta(value.func.__self__), value.func.__name__), *map(on_meta, value.args))
    if isinstance(value, nn.Module):
        return value.to("meta")
    if is_dataclass(value):
        value = copy.copy(value)
        for field in fields(value):
            object.__setattr__(value, field.name, on_meta(getattr(value, field.name)))
    elif type(value).__module__.startswith("mosso.") and hasattr(value, "__dict__"):
        value = copy.copy(value)
        value.__dict__ = {key: on_meta(item) for key, item in value.__dict__.items()}
    return value


@pytest.fixture(params=["reference", "triton"])
def implementation(request, monkeypatch):
    """What the ops of the models run; kernels compute nothing."""
    from triton.runtime.jit import JITFunction

    monkeypatch.setattr(JITFunction, "run", lambda *arguments, **options: None)
    monkeypatch.setattr(dispatch, "triton_obstacle", lambda *tensors: None)
    monkeypatch.setattr("mosso.kernels.fused.symmetric_contraction.why_not", lambda *inputs: None)
    monkeypatch.setattr(dispatch, "preferred", lambda op, device: request.param if device.type == "meta" else "reference")
    return request.param


def boxes() -> list[Structure]:
    first, second = water_box(2, seed=1), water_box(2, seed=2)
    fixed = np.arange(len(second)) < 3
    return [first, Structure(second.numbers, second.positions, second.cell, second.pbc, fixed=fixed)]


def assert_nothing_waits(process, course, made: Potential) -> None:
    blocks = Blocks(process, made, course, first=0, last=1, recorded=lambda step: True, kept=lambda step: True, skin=1.0)
    if isinstance(made.evaluator, TabulatedMACE):
        made.evaluator.tables(blocks._field.groups.present)
    blocks, tracked = on_meta(blocks), on_meta(blocks._runner.state)
    blocks._neighbors._ops = dispatch.neighbor_ops(tracked.course.batch.positions_N3, "triton")
    blocks._captured = True

    def steps() -> None:
        for kind in KINDS:
            after = blocks._advance(tracked, kind)
            assert after.course.batch.positions_N3.device.type == "meta"
            blocks._neighbors.used(after.course.batch)

    steps()  # warms up: what is made and uploaded once
    with NoCrossing(), NoWaiting():
        steps()


def potential_for(implementation: str) -> Potential:
    """The form of the model that runs with these ops."""
    if implementation == "reference":
        return potential("mace-density-agnesi-zbl")
    made = potential("mace-density-agnesi-zbl", "fp32")
    made.evaluator = TabulatedMACE(made.model)
    return made


@pytest.mark.parametrize("ensemble", [*ENSEMBLES, CELLS], ids=[*IDS, "diagonal"])
def test_dynamics_wait_for_nothing(implementation, ensemble):
    made = potential_for(implementation)
    state = ensemble.prepare(start(made, boxes(), 300.0, 3))
    dynamics = _Dynamics(ensemble, 0.5, periodic=True)
    assert_nothing_waits(dynamics, dynamics.examined(state), made)


@pytest.mark.parametrize("pressure", [None, 0.01])
def test_relaxation_waits_for_nothing(implementation, pressure):
    made = potential_for(implementation)
    batch = made.batch(boxes())
    free_N1 = free_atoms(boxes(), made.device).unsqueeze(1)
    descent = _Descent(batch, free_N1, 0.05, pressure)
    course = descent.begin(lambda batch, stress: made.evaluate(batch, made.graph(batch), stress=stress))
    assert_nothing_waits(descent, course, made)


def test_the_stock_form_waits_for_nothing(implementation):
    made = potential("mace-density-agnesi-zbl")
    dynamics = _Dynamics(ENSEMBLES[1], 0.5, periodic=True)
    assert_nothing_waits(dynamics, dynamics.examined(start(made, boxes(), 300.0, 3)), made)


CROSSINGS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "truth": lambda x: bool((x > 0).any()),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: (x > 0).nonzero(),
    "unique": torch.unique,
    "place": lambda x: x[x.long()[0]],
    "list": lambda x: x[[0, 1]],
    "constant": lambda x: x * torch.tensor([1.0, 2.0], device=x.device),
    "new": lambda x: x.new_tensor([1.0]),
    "numpy": lambda x: torch.as_tensor(np.ones(2), device=x.device),
    "host": lambda x: torch.ones(2).to(x.device),
    "inverse": lambda x: torch.linalg.inv(x.expand(2, 2)),
}


@pytest.mark.parametrize("name", CROSSINGS)
def test_what_would_wait_is_seen(name):
    x = torch.empty(2, device="meta")
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), NoCrossing(), NoWaiting():
        CROSSINGS[name](x)
