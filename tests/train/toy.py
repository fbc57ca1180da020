"""A data set in the layout of the recipes, labelled by a pair potential, and a small two-body model that can learn it."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mosso.models.base import NodeOutput
from mosso.precision import Precision
from mosso.train.build import set_energy_scale
from mosso.train.config import TrainConfig

SPECIES = (1, 6, 8)
E0 = {1: -13.0, 6: -1030.0, 8: -2040.0}
CUTOFF = 4.0


def pair_labels(positions, numbers):
    """Energy and forces of a soft pair potential with a smooth end at CUTOFF."""
    r = torch.tensor(positions, dtype=torch.float64, requires_grad=True)
    i, j = torch.triu_indices(len(numbers), len(numbers), 1)
    distance = (r[i] - r[j]).norm(dim=1)
    strength = torch.tensor([1.0 + 0.05 * (numbers[a] + numbers[b]) for a, b in zip(i, j, strict=True)], dtype=torch.float64)
    pair = strength * torch.cos(1.5 * distance) * torch.relu(1 - distance / CUTOFF) ** 2
    energy = pair.sum()
    forces = -torch.autograd.grad(energy, r)[0].numpy() if len(numbers) > 1 else np.zeros((1, 3))
    return float(energy.detach()) + sum(E0[int(z)] for z in numbers), forces


def write_npz(path: Path, num_tasks: int = 12, frames_per_task: int = 3, seed: int = 0) -> Path:
    """Isolated atoms, then ``num_tasks`` trajectories of random clusters in two groups."""
    rng = np.random.default_rng(seed)
    frames = [(np.array([z]), np.zeros((1, 3)), 0, task) for task, z in enumerate(SPECIES)]
    for task in range(len(SPECIES), len(SPECIES) + num_tasks):
        size = int(rng.integers(2, 9))
        numbers = rng.choice(SPECIES, size)
        grid = np.array([(x, y, z) for x in range(2) for y in range(2) for z in range(2)])[:size] * 1.6
        frames += [(numbers, grid + rng.normal(0, 0.15, (size, 3)), 1 + task % 2, task) for _ in range(frames_per_task)]
    order = rng.permutation(len(frames))
    frames = [frames[i] for i in order]
    positions = [p.astype(np.float32) for _, p, _, _ in frames]
    labels = [pair_labels(p.astype(np.float64), n) for p, (n, _, _, _) in zip(positions, frames, strict=True)]
    np.savez(
        path,
        numbers=np.concatenate([n for n, _, _, _ in frames]).astype(np.uint8),
        positions=np.concatenate(positions),
        forces=np.concatenate([f for _, f in labels]).astype(np.float32),
        energies=np.array([e for e, _ in labels]),
        offsets=np.concatenate([[0], np.cumsum([len(p) for p in positions])]).astype(np.int64),
        group=np.array([g for _, _, g, _ in frames], dtype=np.uint8),
        group_names=np.array(["atoms", "odd", "even"]),
        task=np.array([t for _, _, _, t in frames], dtype=np.int32),
    )
    return path


class PairNet(nn.Module):
    """Energy of an atom: sum over its edges of an MLP of Gaussians, chosen by the pair of species."""

    def __init__(self, species: tuple[int, ...], cutoff: float, precision: Precision) -> None:
        super().__init__()
        self.cutoff, self.species, self.dtype = cutoff, species, precision.compute
        self.centres: Tensor
        self.register_buffer("centres", torch.linspace(0.8, cutoff, 12, dtype=self.dtype))
        self.linear = nn.Linear(12, 24, dtype=self.dtype)
        self.readout = nn.Linear(24, len(species) ** 2, bias=False, dtype=self.dtype)
        self.atomic_energies_fn = nn.Module()
        self.atomic_energies_fn.register_buffer("atomic_energies", torch.zeros(1, len(species), dtype=torch.float64))
        self.scale_shift = nn.Module()
        self.scale_shift.register_buffer("scale", torch.ones(1, dtype=torch.float64))
        self.scale_shift.register_buffer("shift", torch.zeros(1, dtype=torch.float64))

    def forward(self, vectors_E3: Tensor, species_N: Tensor, graph, head: int = 0) -> NodeOutput:
        length_E = vectors_E3.to(self.dtype).norm(dim=1)
        basis = torch.exp(-4.0 * (length_E[:, None] - self.centres) ** 2)
        pair_E = species_N[graph.senders_E] * len(self.species) + species_N[graph.receivers_E]
        energy_E = self.readout(torch.tanh(self.linear(basis))).gather(1, pair_E[:, None])[:, 0]
        energy_E = (energy_E * torch.relu(1 - length_E / self.cutoff) ** 2).to(torch.float64)
        inner_N = energy_E.new_zeros(species_N.shape[0]).index_add(0, graph.receivers_E, energy_E)
        energy_N = self.scale_shift.scale * inner_N + self.scale_shift.shift + self.atomic_energies_fn.atomic_energies[head][species_N]
        return NodeOutput(energy_N, inner_N[:, None])


def build_pair_net(config, statistics):
    torch.manual_seed(config.seed)
    model = PairNet(config.model.species, config.model.cutoff, Precision.named(config.precision))
    set_energy_scale(model, config, statistics)
    return model


def make_config(path: Path, **changes) -> TrainConfig:
    """A configuration for the toy data; ``changes`` are sections or top-level fields."""
    sections = {
        "data": {"path": str(path), "validation_fraction": 0.2},
        "model": {"architecture": "pair", "species": SPECIES, "cutoff": CUTOFF},
        "optimizer": {"learning_rate": 0.02, "warmup_steps": 5, "weight_decay": 1e-6, "ema_decay": 0.98},
        "loss": {"stages": [{"energy": 1.0, "forces": 10.0}]},
        "run": {"device": "cpu", "log_every": 10, "validate_every": 50},
        "max_edges": 150,
        "max_steps": 40,
    }
    for key, value in changes.items():
        sections[key] = {**sections[key], **value} if isinstance(value, dict) else value
    return TrainConfig.model_validate(sections)
