"""The training loop: ``train(config, out_dir)`` takes a run as far as its time budget allows and picks it up again next time.

From the command line: ``python -m mosso.train.loop --config recipe.yaml --out out/run --minutes 8``.
"""

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mosso.train.batching import BatchSampler
from mosso.train.build import Builder, build_model
from mosso.train.checkpoint import read_checkpoint, require_same_run, write_checkpoint, write_weights
from mosso.train.config import TrainConfig
from mosso.train.dataset import Dataset
from mosso.train.ema import MovingAverage
from mosso.train.evaluate import Errors, evaluate
from mosso.train.loss import predict, training_loss
from mosso.train.metrics import MetricsLog
from mosso.train.optimizer import build_optimizer, guarded_step, learning_rate
from mosso.train.source import read_frames, split_by_task
from mosso.train.statistics import Statistics


def train(config: TrainConfig, out_dir: Path | str, build: Builder = build_model) -> Path:
    """Train until ``max_steps``, the time budget, SIGTERM or SIGINT; returns the path of the averaged weights.

    With a checkpoint in ``out_dir`` the run goes on from there and, on the CPU, ends with the same bits as a run in one piece
    (on a GPU the state is restored just as exactly, but sums over edges may be added in another order from run to run).
    Writes checkpoint.pt, best.safetensors, last.safetensors, metrics.jsonl and config.json into ``out_dir``.

    Raises:
        ValueError: configuration, data or an older checkpoint do not fit together, or the loss stayed non-finite.
    """
    deadline = time.monotonic() + 60.0 * config.run.minutes if config.run.minutes else float("inf")
    run = Run(config, Path(out_dir), build)
    with stop_requests() as stop:
        while run.step < config.max_steps and not stop.is_set() and time.monotonic() < deadline:
            run.train_step()
            if run.step % config.run.log_every == 0:
                run.report_training()
            if run.step % config.run.validate_every == 0 or run.step == config.max_steps:
                run.validate()
            if time.monotonic() - run.saved_at > 60.0 * config.run.checkpoint_minutes:
                run.save()
        run.save()
    finished = run.step >= config.max_steps
    run.log.note("finished" if finished else f"stopped at step {run.step} of {config.max_steps}: run again with the same folder to go on")
    best, last = run.out_dir / "best.safetensors", run.out_dir / "last.safetensors"
    return best if finished and best.exists() else last


class Run:
    """Everything that changes while training, and how it is brought to disk and back."""

    def __init__(self, config: TrainConfig, out_dir: Path, build: Builder) -> None:
        out_dir.mkdir(parents=True, exist_ok=True)
        self.config, self.out_dir = config, out_dir
        self.device = torch.device(_device_name(config.run.device))
        self.log = MetricsLog(out_dir / "metrics.jsonl")

        started = time.monotonic()
        frames = read_frames(config.data)
        self.data_digest = frames.digest
        self.dataset = Dataset(frames, config.model.species, config.model.cutoff, self.device)
        training, self.validation = split_by_task(frames, config.data.validation_fraction, config.data.split_seed)
        self.statistics = Statistics.of(frames, training, self.dataset.num_edges_F, config.model.species)
        self.sampler = BatchSampler(training, self.dataset.num_edges_F, config.max_edges, config.seed)

        torch.manual_seed(config.seed)
        self.model = build(config, self.statistics).to(self.device)
        self.model.train()
        self.optimizer = build_optimizer(self.model, config.optimizer)
        self.ema = MovingAverage(self.model, config.optimizer.ema_decay)
        self.step, self.best_score = 0, float("inf")
        self.errors: dict[str, Any] = {}  # of the latest validation
        self.bad_total, self.bad_streak = torch.zeros(2, device=self.device).unbind(0)
        self._reset_sums()
        self.saved_at = time.monotonic()
        self.log.note(self._summary(time.monotonic() - started))
        if (out_dir / "checkpoint.pt").exists():
            self.load()
        (out_dir / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def _summary(self, seconds: float) -> str:
        s, parameters = self.statistics, sum(p.numel() for p in self.model.parameters())
        return (
            f"{s.frames} training and {len(self.validation)} validation frames, {s.atoms} atoms, {s.edges} edges, "
            f"{len(self.sampler.batches)} batches per epoch; {s.avg_num_neighbors:.2f} neighbours, rms force {s.rms_forces:.3f} eV/A, "
            f"E0 {', '.join(f'{e:.3f}' for e in s.atomic_energies)} eV; {parameters} parameters on {self.device}; ready in {seconds:.1f} s"
        )

    def _reset_sums(self) -> None:
        """Losses since the last report: weighted, energy, forces, batches; on the device, so that no step waits for them."""
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        self.sums_since, self.sums_step = time.monotonic(), self.step

    def train_step(self) -> None:
        """One batch: loss, gradient, guarded step, average."""
        config = self.config
        labelled = self.dataset.assemble(self.sampler.next())
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optimizer, self.step, config.max_steps)
        energy_B, forces_N3 = predict(self.model, labelled, training=True)
        stage = config.loss.stage(self.step, config.max_steps)
        loss, energy_loss, force_loss = training_loss(energy_B, forces_N3, labelled, config.loss, stage)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        bad = guarded_step(self.optimizer, self.ema.parameters, loss, config.optimizer.clip_norm)
        self.ema.update()
        self.bad_total, self.bad_streak = self.bad_total + bad, (self.bad_streak + 1) * bad
        parts = torch.stack([loss.detach(), energy_loss.detach(), force_loss.detach(), torch.ones_like(loss)])
        self.sums += torch.where(bad > 0, torch.zeros_like(parts), parts)
        self.step += 1

    def report_training(self) -> None:
        """Print and record the mean losses since the last report; the only place that waits for the device."""
        loss, energy, forces, count = [*(self.sums[:3] / self.sums[3].clamp(min=1)).tolist(), float(self.sums[3])]
        rate = (self.step - self.sums_step) / max(time.monotonic() - self.sums_since, 1e-9)
        self.log.training(
            step=self.step,
            epoch=self.sampler.epoch,
            loss=loss if count else None,
            energy_loss=energy if count else None,
            forces_loss=forces if count else None,
            learning_rate=learning_rate(self.config.optimizer, self.step - 1, self.config.max_steps),
            steps_per_second=rate,
            bad_steps=int(self.bad_total),
        )
        if int(self.bad_streak) >= self.config.run.max_bad_steps:
            raise ValueError(
                f"The last {int(self.bad_streak)} steps up to step {self.step} had no finite loss or gradient: lower "
                f"optimizer.learning_rate or look for broken frames. The last checkpoint is in {self.out_dir}."
            )
        self._reset_sums()

    def validate(self) -> None:
        """Errors with the averaged weights; the best ones so far are written at once."""
        started = time.monotonic()
        with self.ema.applied():
            errors: dict[str, Errors] = evaluate(self.model, self.dataset, self.validation, self.config.max_edges)
            self.errors = {name: asdict(value) for name, value in errors.items()}
            self.log.validation(step=self.step, epoch=self.sampler.epoch, errors=self.errors, seconds=time.monotonic() - started)
            # Ranked with the weights of the last stage throughout, so that scores of different stages can be compared.
            weights, total = self.config.loss.stages[-1], errors["total"]
            score = weights.energy * total.energy_mae + weights.forces * total.forces_mae
            if score < self.best_score:
                self.best_score = score
                self._write_weights("best.safetensors")
        self.sums_since += time.monotonic() - started

    def _write_weights(self, name: str) -> None:
        metrics = {"step": self.step, "validation": self.errors}
        write_weights(self.out_dir / name, self.model, self.config, self.statistics, metrics)

    def save(self) -> None:
        """Checkpoint and averaged weights, each replaced in one go."""
        started = time.monotonic()
        state = {
            "identity": json.dumps(self.config.identity()),
            "data_digest": self.data_digest,
            "step": self.step,
            "epoch": self.sampler.epoch,
            "position": self.sampler.position,
            "best_score": self.best_score,
            "errors": json.dumps(self.errors),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "bad": [float(self.bad_total), float(self.bad_streak)],
            "rng_cpu": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }
        write_checkpoint(self.out_dir / "checkpoint.pt", state)
        with self.ema.applied():
            self._write_weights("last.safetensors")
        self.saved_at = time.monotonic()
        self.sums_since += self.saved_at - started

    def load(self) -> None:
        """Go back to where the checkpoint was written."""
        path = self.out_dir / "checkpoint.pt"
        state = read_checkpoint(path, self.device)
        require_same_run(state, self.config, self.data_digest, path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.step, self.best_score, self.errors = state["step"], state["best_score"], json.loads(state["errors"])
        self.bad_total, self.bad_streak = torch.tensor(state["bad"], device=self.device).unbind(0)
        self.sampler.seek(state["epoch"], state["position"])
        torch.set_rng_state(state["rng_cpu"].cpu())
        if state["rng_cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng_cuda"].cpu(), self.device)
        self.log.forget_after(self.step)
        self._reset_sums()
        self.log.note(f"going on from step {self.step}, epoch {self.sampler.epoch}")


def _device_name(name: str) -> str:
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets, so that the loop ends between two steps. Only the main thread can listen."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m mosso.train.loop", description="Train a potential; run again to go on.")
    parser.add_argument("--config", type=Path, required=True, help="recipe: .yaml, .toml or .json")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; resumes when it has a checkpoint")
    parser.add_argument("--minutes", type=float, help="time budget of this piece")
    parser.add_argument("--device", help="auto, cpu or cuda")
    parser.add_argument("--max-steps", type=int, help="length of the whole run, instead of the recipe's")
    given = parser.parse_args(arguments)
    try:
        config = TrainConfig.read(given.config)
        changes = {"minutes": given.minutes, "device": given.device}
        config = config.piece(**{key: value for key, value in changes.items() if value is not None})
        if given.max_steps:
            config = config.model_copy(update={"max_steps": given.max_steps})
        print(train(config, given.out))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
