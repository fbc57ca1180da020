"""Validation: errors of energies and forces over many frames, in total and per group."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mosso.train.batching import fill
from mosso.train.dataset import Dataset, LabelledBatch
from mosso.train.loss import predict


@dataclass(frozen=True)
class Errors:
    """Errors over some frames: energies in meV/atom (every frame counts once), forces in meV/A (every component counts once)."""

    frames: int
    energy_mae: float
    energy_rmse: float
    forces_mae: float
    forces_rmse: float


def evaluate(model: nn.Module, dataset: Dataset, chosen: np.ndarray, max_edges: int) -> dict[str, Errors]:
    """Errors of ``model`` on the frames ``chosen``: ``total`` and one entry per group that occurs among them."""
    was_training = model.training
    model.eval()
    # Rows: energy |e|, e^2, frames; forces |f|, f^2, components. Read back once, at the end.
    sums_6G = torch.zeros((6, len(dataset.group_names)), dtype=torch.float64, device=dataset.device)
    for batch in fill(np.asarray(chosen), dataset.num_edges_F, max_edges):
        labelled = dataset.assemble(batch)
        energy_B, forces_N3 = predict(model, labelled, training=False)
        _accumulate(sums_6G, energy_B, forces_N3, labelled)
    model.train(was_training)
    sums = sums_6G.cpu().numpy()
    result = {"total": _errors(sums.sum(axis=1))}
    result.update({name: _errors(sums[:, g]) for g, name in enumerate(dataset.group_names) if sums[2, g] > 0})
    return result


def _accumulate(sums_6G: Tensor, energy_B: Tensor, forces_N3: Tensor, labelled: LabelledBatch) -> None:
    energy_error_B = (energy_B - labelled.energy_B) / labelled.num_atoms_B
    force_error_N3 = forces_N3 - labelled.forces_N3
    group_B = labelled.group_B
    group_N = group_B[labelled.batch.system_N]
    rows = (
        (group_B, energy_error_B.abs()),
        (group_B, energy_error_B.square()),
        (group_B, torch.ones_like(energy_error_B)),
        (group_N, force_error_N3.abs().sum(1)),
        (group_N, force_error_N3.square().sum(1)),
        (group_N, torch.full_like(force_error_N3[:, 0], 3.0)),
    )
    for row, (group, values) in enumerate(rows):
        sums_6G[row].index_add_(0, group, values)


def _errors(sums: np.ndarray) -> Errors:
    energy_abs, energy_square, frames, force_abs, force_square, components = (float(value) for value in sums)
    return Errors(
        frames=int(frames),
        energy_mae=1e3 * energy_abs / frames,
        energy_rmse=1e3 * (energy_square / frames) ** 0.5,
        forces_mae=1e3 * force_abs / components,
        forces_rmse=1e3 * (force_square / components) ** 0.5,
    )
