"""Whole runs: learning, resuming, stopping, refusing."""

import json
import os
import signal
import threading

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from train.toy import build_pair_net, make_config

from mosso.train import loop
from mosso.train.checkpoint import load_trained
from mosso.train.dataset import Dataset
from mosso.train.loop import Run, train


def lines(out_dir, kind):
    records = [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]
    return [r for r in records if r["kind"] == kind]


def state_of(out_dir):
    return torch.load(out_dir / "checkpoint.pt", weights_only=True)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("kind", ["huber", "mse", "l2"])
def test_learns_a_toy_set(npz, tmp_path, kind):
    stages = [{"energy": 1.0, "forces": 10.0}, {"start": 0.6, "energy": 20.0, "forces": 10.0}]
    config = make_config(npz, max_steps=250, loss={"kind": kind, "huber_delta": 0.05, "stages": stages})
    path = train(config, tmp_path, build_pair_net)
    assert path == tmp_path / "best.safetensors"
    losses = [r["forces_loss"] for r in lines(tmp_path, "training")]
    factor = 100 if kind == "mse" else 10
    assert losses[-1] < losses[0] / factor
    validation = lines(tmp_path, "validation")
    assert [r["step"] for r in validation] == [50, 100, 150, 200, 250]
    assert set(validation[-1]["errors"]) == {"total", "odd", "even"}
    assert validation[-1]["errors"]["total"]["forces_rmse"] < 25.0  # meV/A, of 465


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_resumed_run_has_the_same_bits(npz, tmp_path, precision):
    config = make_config(npz, precision=precision, optimizer={"amsgrad": precision == "fp64"}, run={"validate_every": 20})
    train(config, tmp_path / "whole", build_pair_net)

    for steps in (7, 23, 29):
        pieces = Run(config, tmp_path / "pieces", build_pair_net)
        while pieces.step < steps:
            pieces.train_step()
            if pieces.step % 20 == 0:
                pieces.validate()
        pieces.save()
        pieces.train_step()  # work that is lost, as when a machine is taken away
    train(config, tmp_path / "pieces", build_pair_net)
    whole, pieces = state_of(tmp_path / "whole"), state_of(tmp_path / "pieces")
    assert whole["step"] == 40 and whole["epoch"] >= 2
    assert [key for key in whole if not same(whole[key], pieces[key])] == []
    for name in ("best.safetensors", "last.safetensors"):
        assert same(load_file(tmp_path / "whole" / name), load_file(tmp_path / "pieces" / name))


def test_training_on_one_that_is_finished_changes_nothing(npz, tmp_path):
    config = make_config(npz, max_steps=12)
    train(config, tmp_path, build_pair_net)
    before = state_of(tmp_path)
    train(config, tmp_path, build_pair_net)
    assert same(before, state_of(tmp_path))


def test_other_settings_or_data_are_refused(npz, tmp_path, monkeypatch):
    train(make_config(npz, max_steps=3), tmp_path, build_pair_net)
    with pytest.raises(ValueError, match=r"optimizer\.learning_rate"):
        train(make_config(npz, max_steps=3, optimizer={"learning_rate": 0.5}), tmp_path, build_pair_net)
    train(make_config(npz, max_steps=4, run={"log_every": 1}), tmp_path, build_pair_net)  # these may change
    monkeypatch.setattr("mosso.train.source.Frames.digest", "something else")
    with pytest.raises(ValueError, match="other data"):
        train(make_config(npz, max_steps=4), tmp_path, build_pair_net)


def test_a_damaged_checkpoint_is_refused(npz, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        train(make_config(npz, max_steps=3), tmp_path, build_pair_net)


def test_stops_at_the_time_budget_and_goes_on(npz, tmp_path):
    config = make_config(npz, max_steps=6)
    path = train(config.piece(minutes=1e-6), tmp_path, build_pair_net)
    assert path.name == "last.safetensors" and state_of(tmp_path)["step"] < 6
    train(config, tmp_path, build_pair_net)
    assert state_of(tmp_path)["step"] == 6


def test_sigterm_leaves_a_checkpoint(npz, tmp_path, monkeypatch):
    step = Run.train_step

    def step_and_signal(run):
        step(run)
        if run.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "train_step", step_and_signal)
    handler = signal.getsignal(signal.SIGTERM)
    train(make_config(npz), tmp_path, build_pair_net)
    assert state_of(tmp_path)["step"] == 5 and signal.getsignal(signal.SIGTERM) == handler


def test_runs_in_another_thread(npz, tmp_path):
    thread = threading.Thread(target=train, args=(make_config(npz, max_steps=2), tmp_path, build_pair_net))
    thread.start()
    thread.join()
    assert state_of(tmp_path)["step"] == 2


def test_broken_batches_are_skipped_and_counted(npz, tmp_path, monkeypatch):
    assemble, calls = Dataset.assemble, []

    def sometimes_broken(dataset, chosen):
        labelled = assemble(dataset, chosen)
        calls.append(1)
        if len(calls) in (4, 5, 9):
            labelled.forces_N3.fill_(float("nan"))
        return labelled

    monkeypatch.setattr(Dataset, "assemble", sometimes_broken)
    train(make_config(npz, max_steps=10, run={"validate_every": 1000}), tmp_path, build_pair_net)
    (record,) = lines(tmp_path, "training")
    assert record["bad_steps"] == 3 and record["loss"] > 0
    assert all(bool(torch.isfinite(value).all()) for value in load_file(tmp_path / "last.safetensors").values())


def test_gives_up_when_nothing_is_finite(npz, tmp_path):
    def broken(config, statistics):
        model = build_pair_net(config, statistics)
        nn.init.constant_(model.readout.weight, float("nan"))
        return model

    with pytest.raises(ValueError, match="no finite loss"):
        train(make_config(npz, max_steps=40), tmp_path, broken)


def test_weights_come_back_as_a_model(npz, tmp_path):
    config = make_config(npz, max_steps=20, run={"validate_every": 10})
    model, stored, metrics = load_trained(train(config, tmp_path, build_pair_net), build_pair_net)
    assert stored == config and metrics["validation"]["total"]["frames"] > 0
    run = Run(config, tmp_path, build_pair_net)
    with run.ema.applied():
        errors = loop.evaluate(run.model, run.dataset, run.validation, config.max_edges)["total"]
    again = loop.evaluate(model, run.dataset, run.validation, config.max_edges)["total"]
    assert errors == again or metrics["step"] == 10


def test_command_line(npz, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mosso.train.loop.build_model", build_pair_net)
    monkeypatch.setattr(loop.train, "__defaults__", (build_pair_net,))
    recipe = tmp_path / "recipe.json"
    recipe.write_text(make_config(npz, max_steps=100).model_dump_json())
    assert loop.main(["--config", str(recipe), "--out", str(tmp_path / "run"), "--max-steps", "4", "--device", "cpu"]) == 0
    assert "finished" in capsys.readouterr().out
    recipe.write_text("{}")
    assert loop.main(["--config", str(recipe), "--out", str(tmp_path / "run")]) == 1
    assert "data" in capsys.readouterr().err
