"""The trainer with a MACE: building, isolated atoms, a few steps, resuming, the recipe."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from train.toy import E0, SPECIES, make_config

from mosso.train.build import build_model
from mosso.train.checkpoint import load_trained
from mosso.train.config import TrainConfig
from mosso.train.evaluate import evaluate
from mosso.train.loop import Run, train
from mosso.train.loss import predict
from mosso.train.optimizer import build_optimizer
from mosso.train.statistics import Statistics

pytest.importorskip("mosso.models.mace")
SMALL = {"hidden_irreps": "8x0e+8x1o", "max_ell": 2, "correlation": [2, 2], "radial_mlp": [16], "num_bessel": 6}


def mace_config(npz, **changes):
    model = {"architecture": "mace", "options": SMALL}
    return make_config(npz, **{"model": model, "optimizer": {"learning_rate": 0.03}, "max_steps": 60, **changes})


@pytest.fixture(scope="module")
def trained(npz, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mace")
    config = mace_config(npz, run={"validate_every": 15})
    train(config, folder)
    return config, folder


def test_isolated_atoms_have_exactly_e0(frames, dataset, npz):
    config = mace_config(npz, precision="fp64")
    statistics = Statistics.of(frames, np.arange(len(frames)), dataset.num_edges_F, SPECIES)
    model = build_model(config, statistics)
    single = np.flatnonzero(frames.num_atoms_F == 1)
    energies, forces = predict(model, dataset.assemble(single), training=False)
    assert energies.tolist() == [E0[int(frames.numbers_N[frames.offsets[f]])] for f in single] and not forces.any()
    assert [i.average for i in model.interactions] == [statistics.avg_num_neighbors] * 2
    assert float(model.scale_shift.scale) == pytest.approx(statistics.rms_forces)


def test_learns_and_comes_back(trained, dataset):
    config, folder = trained
    run = Run(config, folder, build_model)
    model, _, metrics = load_trained(folder / "last.safetensors")
    with run.ema.applied():
        ours = evaluate(run.model, dataset, run.validation, config.max_edges)["total"]
    theirs = evaluate(model, dataset, run.validation, config.max_edges)["total"]
    assert metrics["step"] == 60 and ours == theirs
    fresh = evaluate(build_model(config, run.statistics), dataset, run.validation, config.max_edges)["total"]
    assert theirs.forces_rmse < 0.7 * fresh.forces_rmse


def test_resumes_bit_by_bit(trained, tmp_path):
    config, folder = trained
    run = Run(config, tmp_path, build_model)
    for _ in range(17):
        run.train_step()
        if run.step == 15:
            run.validate()
    run.save()
    train(config, tmp_path)
    for name in ("best.safetensors", "last.safetensors"):
        whole, pieces = load_file(folder / name), load_file(tmp_path / name)
        assert all(torch.equal(whole[key], pieces[key]) for key in whole)


def test_every_parameter_learns_and_some_decay(trained):
    config, folder = trained
    run = Run(config.model_copy(update={"max_steps": 61}), folder, build_model)
    run.train_step()
    assert [name for name, p in run.model.named_parameters() if p.grad is None] == []
    groups = build_optimizer(run.model, config.optimizer).param_groups
    decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    names = {name for name, p in run.model.named_parameters() if id(p) in decaying}
    assert "interactions.1.linear.weight" in names and "products.0.linear.weight" in names
    assert not {n for n in names if "readout" in n or "embedding" in n or "conv_tp" in n}


def test_options_are_checked(frames, dataset, npz):
    statistics = Statistics.of(frames, np.arange(len(frames)), dataset.num_edges_F, SPECIES)
    for options, message in (({"colour": "red"}, "colour"), ({"r_max": 3.0}, "may not set r_max"), ({"max_ell": 1}, "hidden_irreps")):
        with pytest.raises(ValueError, match=message):
            build_model(mace_config(npz, model={"architecture": "mace", "options": options}), statistics)
    with pytest.raises(ValueError, match="Cannot train architecture 'pair'"):
        build_model(make_config(npz), statistics)


def test_the_recipe_builds_its_model():
    path = Path(__file__).parents[2] / "recipes" / "xtb_hcno" / "train.yaml"
    config = TrainConfig.read(path)
    assert config.data.path == path.parent / "xtb_hcno.npz"
    statistics = Statistics((1, 6, 7, 8), (-10.0, -40.0, -70.0, -100.0), 30.0, 1.0, -4.0, 1, 1, 1)
    model = build_model(config, statistics)
    assert model.species == (1, 6, 7, 8) and model.cutoff == 5.0
