"""Forces from an energy model with a graph that can be differentiated again, and the training loss on energies and forces."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mosso import kernels
from mosso.graph.graph import edge_vectors
from mosso.models.outputs import edge_gradient
from mosso.train.config import LossConfig, Stage
from mosso.train.dataset import LabelledBatch

EnergyModel = Callable[..., Any]  # a mosso.models.base.Model or a torch module of the same signature


def predict(model: EnergyModel, labelled: LabelledBatch, training: bool) -> tuple[Tensor, Tensor]:
    """Energies (B,) in eV and forces (N, 3) in eV/A, float64.

    With ``training`` the forces keep their graph, because the loss on them is differentiated once more.
    """
    batch, graph = labelled.batch, labelled.graph
    vectors_E3 = edge_vectors(batch, graph).requires_grad_()
    energy_B = kernels.segment_sum(model(vectors_E3, labelled.species_N, graph).energy_N, batch.system_N, batch.num_systems)
    gradient_E3 = edge_gradient(energy_B, vectors_E3, create_graph=training)
    forces_N3, _ = kernels.edge_forces(gradient_E3, vectors_E3, *graph.rows[2:], virials="none")
    return (energy_B, forces_N3) if training else (energy_B.detach(), forces_N3.detach())


def training_loss(
    energy_B: Tensor, forces_N3: Tensor, labelled: LabelledBatch, config: LossConfig, stage: Stage
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted loss and its two unweighted parts, energy per atom and forces; scalars.

    Kinds: ``mse`` is the mean square of the energy error per atom and of the force components; ``huber`` the same with linear
    tails beyond ``huber_delta``; ``l2`` the mean absolute energy error per atom and the mean length of the force error.
    """
    energy_error_B = (energy_B - labelled.energy_B) / labelled.num_atoms_B
    force_error_N3 = forces_N3 - labelled.forces_N3
    if config.kind == "l2":
        energy_loss, force_loss = energy_error_B.abs().mean(), torch.linalg.vector_norm(force_error_N3, dim=1).mean()
    elif config.kind == "mse":
        energy_loss, force_loss = energy_error_B.square().mean(), force_error_N3.square().mean()
    else:
        energy_loss, force_loss = huber(energy_error_B, config.huber_delta).mean(), huber(force_error_N3, config.huber_delta).mean()
    return stage.energy * energy_loss + stage.forces * force_loss, energy_loss, force_loss


def huber(error: Tensor, delta: float) -> Tensor:
    """error^2 / 2 up to ``delta``, then delta (|error| - delta / 2) (Huber 1964)."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * error.square(), delta * (size - 0.5 * delta))
