"""Loss, moving average, optimiser, schedule and configuration."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from train.toy import SPECIES, build_pair_net, make_config

from mosso.train.config import LossConfig, OptimizerConfig, TrainConfig
from mosso.train.ema import MovingAverage
from mosso.train.evaluate import evaluate
from mosso.train.loss import huber, predict, training_loss
from mosso.train.optimizer import build_optimizer, guarded_step, learning_rate
from mosso.train.statistics import Statistics


@pytest.fixture
def model(npz, frames, dataset):
    statistics = Statistics.of(frames, np.arange(len(frames)), dataset.num_edges_F, SPECIES)
    return build_pair_net(make_config(npz, precision="fp64"), statistics)


def test_forces_are_the_gradient_of_the_energy(frames, dataset, model):
    labelled = dataset.assemble(np.arange(6))
    forces = predict(model, labelled, training=False)[1]
    positions = labelled.batch.positions_N3
    for atom, axis in ((0, 0), (3, 1), (labelled.batch.num_atoms - 1, 2)):
        energies = []
        for sign in (1, -1):
            positions[atom, axis] += sign * 1e-4
            energies.append(float(predict(model, labelled, training=False)[0].sum()))
            positions[atom, axis] -= sign * 1e-4
        assert float(forces[atom, axis]) == pytest.approx(-(energies[0] - energies[1]) / 2e-4, abs=1e-6)


@pytest.mark.parametrize("kind", ["huber", "mse", "l2"])
def test_gradient_of_the_loss_in_every_parameter(dataset, model, kind):
    config = LossConfig(kind=kind, huber_delta=0.5, stages=[{"energy": 3.0, "forces": 2.0}])
    labelled = dataset.assemble(np.arange(8))

    def loss():
        return training_loss(*predict(model, labelled, training=True), labelled, config, config.stages[0])[0]

    loss().backward()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * 1e-5 * direction
            values.append(float(loss().detach()))
            with torch.no_grad():
                parameter -= sign * 1e-5 * direction
        expected = (values[0] - values[1]) / 2e-5
        assert float((parameter.grad * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_loss_of_isolated_atoms_is_finite(frames, dataset, model):
    labelled = dataset.assemble(np.flatnonzero(frames.num_atoms_F == 1))
    energy, forces = predict(model, labelled, training=False)
    assert torch.allclose(energy, labelled.energy_B) and not forces.any()


def test_huber_is_the_one_of_torch():
    error = torch.linspace(-3, 3, 101, dtype=torch.float64)
    assert torch.allclose(huber(error, 0.7), nn.functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=0.7))


def test_errors_per_group(frames, dataset, model):
    chosen = np.arange(3, 30)
    errors = evaluate(model, dataset, chosen, max_edges=150)
    labelled = dataset.assemble(chosen)
    energy, forces = predict(model, labelled, training=False)
    energy_error = 1e3 * ((energy - labelled.energy_B) / labelled.num_atoms_B)
    force_error = 1e3 * (forces - labelled.forces_N3)
    for name, group in (("total", None), ("odd", 1), ("even", 2)):
        of_frames = torch.ones(len(chosen), dtype=torch.bool) if group is None else labelled.group_B == group
        e, f = energy_error[of_frames], force_error[of_frames[labelled.batch.system_N]]
        expected = (len(e), e.abs().mean(), e.square().mean().sqrt(), f.abs().mean(), f.square().mean().sqrt())
        found = errors[name]
        assert (found.frames, found.energy_mae, found.energy_rmse, found.forces_mae, found.forces_rmse) == pytest.approx(
            tuple(float(x) for x in expected), rel=1e-9
        )


def test_moving_average_against_the_closed_form():
    model = nn.Linear(3, 2, dtype=torch.float64)
    start, ema, seen = model.weight.detach().clone(), MovingAverage(model, 0.7), []
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.copy_(torch.full((2, 3), float(step) ** 1.5))
        seen.append(model.weight.detach().clone())
        ema.update()
    decays = [min(0.7, (1 + n) / (10 + n)) for n in range(1, 30)]
    expected = start * math.prod(decays)
    for n, value in enumerate(seen):
        expected = expected + (1 - decays[n]) * math.prod(decays[n + 1 :]) * value
    assert torch.allclose(ema.shadow[0], expected, rtol=1e-13)
    own = model.weight.detach().clone()
    with ema.applied():
        assert torch.equal(model.weight, ema.shadow[0])
    assert torch.equal(model.weight, own)


def test_schedule():
    config = OptimizerConfig(learning_rate=2.0, warmup_steps=10, final_factor=0.1)
    rates = [learning_rate(config, step, 101) for step in range(101)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[100] == pytest.approx(0.2) and rates[55] == pytest.approx(1.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_stages():
    config = LossConfig(stages=[{"energy": 1, "forces": 10}, {"start": 0.7, "energy": 50, "forces": 10}])
    assert [config.stage(step, 10).energy for step in (0, 6, 7, 9)] == [1, 1, 50, 50]
    with pytest.raises(ValueError, match="ascend"):
        LossConfig(stages=[{"start": 0.5, "energy": 1, "forces": 1}])


def test_decay_reaches_only_the_named_weights(model):
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.1, decay_on=("*linear.weight",)))
    decaying = [p for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]]
    assert [id(p) for p in decaying] == [id(model.linear.weight)]
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_step_with_a_broken_gradient_changes_nothing(amsgrad):
    model = nn.Linear(4, 1)
    optimizer = build_optimizer(model, OptimizerConfig(amsgrad=amsgrad, weight_decay=0.1, decay_on=("weight",)))

    def step(scale):
        optimizer.zero_grad()
        loss = (model(torch.ones(2, 4)) * scale).square().sum()
        loss.backward()
        return float(guarded_step(optimizer, model.parameters(), loss, 1.0))

    assert step(1.0) == 0
    weights = [p.detach().clone() for p in model.parameters()]
    state = [{k: v.clone() for k, v in s.items()} for s in optimizer.state.values()]
    assert step(float("nan")) == 1 and step(float("inf")) == 1
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    for before, after in zip(state, optimizer.state.values(), strict=True):
        assert all(torch.equal(before[k], after[k]) for k in before)
    assert step(1.0) == 0 and not torch.equal(weights[0], next(model.parameters()))


RECIPE = {"data": {"path": "toy.npz"}, "model": {"species": [1, 8], "cutoff": 5.0}, "max_steps": 10}


def test_config_from_toml_json_and_yaml(tmp_path):
    toml = 'max_steps = 10\n[data]\npath = "toy.npz"\n[model]\nspecies = [1, 8]\ncutoff = 5.0\n'
    (tmp_path / "recipe.toml").write_text(toml)
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))  # JSON is YAML
    config = TrainConfig.read(tmp_path / "recipe.toml")
    assert config.data.path == (tmp_path / "toy.npz").resolve()
    assert config == TrainConfig.read(tmp_path / "recipe.json") == TrainConfig.read(tmp_path / "recipe.yaml")


def test_config_from_yaml(tmp_path):
    (tmp_path / "recipe.yaml").write_text("max_steps: 10\ndata: {path: toy.npz}\nmodel:\n  species: [1, 8]\n  cutoff: 5.0\n")
    assert TrainConfig.read(tmp_path / "recipe.yaml").model.species == (1, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_stepz": 3}, "max_stepz"),
        ({"model": {"species": [8, 1], "cutoff": 5.0}}, "ascending"),
        ({"model": {"species": [1, 8], "cutoff": -1}}, "model.cutoff"),
        ({"optimizer": {"momentum": 0.9}}, "optimizer.momentum"),
        ({"loss": {"kind": "log-cosh"}}, "loss.kind"),
    ],
)
def test_config_refuses_what_it_does_not_know(tmp_path, change, message):
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE | change))
    with pytest.raises(ValueError, match=message):
        TrainConfig.read(tmp_path / "recipe.json")
