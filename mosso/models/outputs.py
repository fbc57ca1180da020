"""From per-atom energies to forces, stress, virials and the Hessian."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mosso import kernels
from mosso.data.structure import Batch
from mosso.graph.graph import Graph, edge_vectors
from mosso.models.base import Evaluator, Model, NodeOutput


@dataclass(frozen=True, eq=False)
class Output:
    """What a potential says of a batch of B systems, or of one system when the leading axis B is gone.

    Attributes:
        energy: (B,) float64, eV.
        node_energies: (N,) float64, eV, including E0; they sum to the energy.
        forces: (N, 3) float64, eV/Angstrom; None when not asked for.
        stress: (B, 3, 3) float64, eV/Angstrom^3, symmetric, tension positive; None when not asked for, NaN for
            systems of a batch that have no volume.
        virials: (N, 3, 3) float64, eV, -dE/d(strain) attributed to atoms, half of each edge to either end; None
            when not asked for.
        precision: name of the policy.
        offsets: B + 1 ints, atoms of system b are offsets[b]:offsets[b+1].
    """

    energy: Tensor
    node_energies: Tensor
    forces: Tensor | None
    stress: Tensor | None
    virials: Tensor | None
    precision: str
    offsets: tuple[int, ...]

    def split(self) -> list["Output"]:
        """One Output per system, without the batch axis."""
        return [self._system(b) for b in range(len(self.offsets) - 1)]

    def _system(self, b: int) -> "Output":
        atoms = slice(self.offsets[b], self.offsets[b + 1])
        return replace(
            self,
            energy=self.energy[b],
            node_energies=self.node_energies[atoms],
            forces=None if self.forces is None else self.forces[atoms],
            stress=None if self.stress is None else self.stress[b],
            virials=None if self.virials is None else self.virials[atoms],
            offsets=(0, self.offsets[b + 1] - self.offsets[b]),
        )


def evaluate(
    model: Evaluator,
    batch: Batch,
    graph: Graph,
    species_N: Tensor,
    *,
    head: int = 0,
    forces: bool = True,
    stress: bool = False,
    virials: bool = False,
    precision: str = "",
    groups: kernels.SpeciesGroups | None = None,
) -> Output:
    """Energy and, from one backward pass to the edge vectors, forces, stress and per-atom virials.

    With g = dE/dr of each edge (r from sender to receiver): the force on an atom is the sum of g over its outgoing
    edges minus the sum over its incoming ones, and the strain derivative of the energy is the sum of r g^T
    (``kernels.edge_forces``).
    """
    differentiate = forces or stress or virials
    with torch.set_grad_enabled(differentiate):
        vectors_E3 = edge_vectors(batch, graph).detach().requires_grad_(differentiate)
        node_energy_N = model(vectors_E3, species_N, graph, head, groups).energy_N
    counts_B = batch.counts_B
    forces_N3 = stress_B33 = virials_N33 = None
    if differentiate:
        gradient_E3 = edge_gradient(node_energy_N, vectors_E3)
        forces_N3, virials_N33 = kernels.edge_forces(
            gradient_E3, vectors_E3.detach(), *graph.rows[2:], "shared" if virials else "received" if stress else "none"
        )
    if virials_N33 is not None and stress:
        # One short sum per atom first, so that no single 3x3 collects a million edges one after the other.
        stress_B33 = kernels.stress(kernels.sum_segments(virials_N33, counts_B), batch.cell_B33)
    return Output(
        energy=kernels.sum_segments(node_energy_N.detach(), counts_B),
        node_energies=node_energy_N.detach(),
        forces=forces_N3 if forces else None,
        stress=stress_B33 if stress else None,
        virials=virials_N33 if virials else None,
        precision=precision,
        offsets=batch.offsets,
    )


class _Sum(torch.autograd.Function):
    """A sum that is there to be differentiated: nobody reads its value, so it is not made."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.shape = values.shape
        return values.new_empty(())

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.expand(ctx.shape)


def edge_gradient(energies: Tensor, vectors_E3: Tensor, create_graph: bool = False) -> Tensor:
    """(E, 3) derivative of the sum of ``energies`` with respect to the edge vectors; zero where it does not depend on them."""
    if not energies.requires_grad:
        return torch.zeros_like(vectors_E3)
    # Of a number and not of ``energies`` with ones as their gradient: torch checks the shape of one by importing sympy.
    (gradient,) = torch.autograd.grad(_Sum.apply(energies), vectors_E3, create_graph=create_graph, allow_unused=True)
    return torch.zeros_like(vectors_E3) if gradient is None else gradient


def hessian(model: Model, batch: Batch, graph: Graph, species_N: Tensor, *, head: int = 0) -> Tensor:
    """(3N, 3N) float64, eV/Angstrom^2, exact second derivatives of the total energy by double backward."""
    positions_N3 = batch.positions_N3.detach().requires_grad_(True)
    vectors_E3 = edge_vectors(replace(batch, positions_N3=positions_N3), graph)
    energy = model(vectors_E3, species_N, graph, head).energy_N.sum()
    size = positions_N3.numel()
    if not energy.requires_grad:
        return positions_N3.new_zeros(size, size)
    (gradient_N3,) = torch.autograd.grad(energy, positions_N3, create_graph=True)
    rows = [torch.autograd.grad(component, positions_N3, retain_graph=True)[0].flatten() for component in gradient_N3.flatten()]
    return torch.stack(rows)


def descriptors(model: Model, batch: Batch, graph: Graph, species_N: Tensor) -> Tensor:
    """(N, F) node features of all layers side by side, rotating with the structure."""
    with torch.no_grad():
        result: NodeOutput = model(edge_vectors(batch, graph), species_N, graph)
    assert result.descriptors_NF is not None
    return result.descriptors_NF
