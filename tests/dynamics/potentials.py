"""Cheap potentials with the interface of the engine's, and systems to move with them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosso.data.structure import Batch, Structure
from mosso.graph.graph import Graph, edge_vectors
from mosso.graph.neighbors import neighbor_list

ARGON = {"epsilon": 0.0104, "sigma": 3.4}  # eV, A


@dataclass(frozen=True, eq=False)
class Output:
    energy: Tensor
    forces: Tensor
    stress: Tensor | None
    node_energies: Tensor


class Potential:
    device = torch.device("cpu")
    cutoff = 0.01

    def batch(self, structures: Iterable[Any]) -> Batch:
        return Batch.of(structures, self.device)

    def graph(self, batch: Batch) -> Graph:
        return neighbor_list(batch, self.cutoff)

    def output(self, batch: Batch, energy_N: Tensor, forces_N3: Tensor, virial_B33: Tensor | None) -> Output:
        energy_B = torch.zeros(batch.num_systems, dtype=torch.float64).index_add(0, batch.system_N, energy_N)
        stress_B33 = None if virial_B33 is None else virial_B33 / batch.volume_B[:, None, None]
        return Output(energy_B, forces_N3, stress_B33, energy_N)


class Free(Potential):
    """No forces at all: the ideal gas."""

    def graph(self, batch: Batch) -> Graph:
        none_E = torch.zeros(0, dtype=torch.int64)
        return Graph.from_edges(none_E, none_E, none_E.new_zeros(0, 3), batch.num_atoms, self.cutoff)

    def evaluate(self, batch: Batch, graph: Graph | None, *, stress: bool = False) -> Output:
        zero_N3 = torch.zeros_like(batch.positions_N3)
        return self.output(batch, zero_N3[:, 0].clone(), zero_N3, torch.zeros_like(batch.cell_B33) if stress else None)


class Tethered(Potential):
    """Every atom on a spring (eV/A^2) of its own: the Einstein crystal."""

    def __init__(self, spring: float, anchors_N3: Tensor) -> None:
        self.spring, self.anchors_N3 = spring, anchors_N3

    def evaluate(self, batch: Batch, graph: Graph | None, *, stress: bool = False) -> Output:
        away_N3 = batch.positions_N3 - self.anchors_N3
        energy_N = 0.5 * self.spring * away_N3.square().sum(1)
        return self.output(batch, energy_N, -self.spring * away_N3, torch.zeros_like(batch.cell_B33) if stress else None)


class LennardJones(Potential):
    """4 eps ((s/r)^12 - (s/r)^6), brought to zero between ``onset`` and ``cutoff``; without an onset cut off."""

    def __init__(self, epsilon: float = 1.0, sigma: float = 1.0, cutoff: float = 100.0, onset: float | None = None) -> None:
        self.epsilon, self.sigma, self.cutoff, self.onset = epsilon, sigma, cutoff, onset
        self.num_stress = 0

    def evaluate(self, batch: Batch, graph: Graph, *, stress: bool = False) -> Output:
        self.num_stress += stress
        vectors_E3 = edge_vectors(batch, graph)
        distance_E = vectors_E3.square().sum(1).sqrt()
        six_E = (self.sigma / distance_E) ** 6
        energy_E = 4.0 * self.epsilon * (six_E * six_E - six_E)
        slope_E = -24.0 * self.epsilon * (2.0 * six_E * six_E - six_E) / distance_E
        if self.onset is not None:
            x_E = ((distance_E - self.onset) / (self.cutoff - self.onset)).clamp(0.0, 1.0)
            switch_E = 1.0 - x_E**3 * (10.0 - 15.0 * x_E + 6.0 * x_E**2)
            switch_slope_E = -30.0 * x_E**2 * (1.0 - x_E) ** 2 / (self.cutoff - self.onset)
            energy_E, slope_E = energy_E * switch_E, slope_E * switch_E + energy_E * switch_slope_E
        gradient_E3 = (slope_E / distance_E).unsqueeze(1) * vectors_E3
        energy_N = torch.zeros(batch.num_atoms, dtype=torch.float64).index_add(0, graph.receivers_E, 0.5 * energy_E)
        # Each pair appears twice, so half the sum over both ends is the sum over one.
        forces_N3 = torch.zeros_like(batch.positions_N3).index_add(0, graph.receivers_E, -gradient_E3)
        virial_B33 = None
        if stress:
            outer_E9 = (0.5 * vectors_E3.unsqueeze(2) * gradient_E3.unsqueeze(1)).reshape(-1, 9)
            system_E = batch.system_N[graph.receivers_E]
            virial_B33 = torch.zeros(batch.num_systems, 9, dtype=torch.float64).index_add(0, system_E, outer_E9).reshape(-1, 3, 3)
        return self.output(batch, energy_N, forces_N3, virial_B33)


def argon() -> LennardJones:
    return LennardJones(**ARGON, cutoff=8.0, onset=6.5)


def fcc(repeats: int = 2, a: float = 5.3, rattle: float = 0.05, seed: int = 0) -> Structure:
    """Argon crystal of 4 repeats^3 atoms."""
    basis = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    corners = np.array(np.meshgrid(*[np.arange(repeats)] * 3, indexing="ij")).reshape(3, -1).T
    positions = a * (corners[:, None] + basis).reshape(-1, 3)
    positions += rattle * np.random.default_rng(seed).standard_normal(positions.shape)
    return Structure(np.full(len(positions), 18), positions, np.eye(3) * a * repeats, True)


def cluster(num_atoms: int = 7, seed: int = 1, spacing: float = 3.8) -> Structure:
    """Argon atoms on a small grid, disturbed, in open space."""
    grid = np.array(np.meshgrid(*[np.arange(3)] * 3, indexing="ij")).reshape(3, -1).T[:num_atoms] * spacing
    return Structure(np.full(num_atoms, 18), grid + 0.1 * np.random.default_rng(seed).standard_normal(grid.shape))


def gas(num_atoms: int, length: float, seed: int = 0) -> Structure:
    positions = length * np.random.default_rng(seed).random((num_atoms, 3))
    return Structure(np.full(num_atoms, 18), positions, np.eye(3) * length, True)
