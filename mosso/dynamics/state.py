"""State: everything a simulation is at one step, and how it starts."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mosso import kernels
from mosso.data.structure import BadStructure, Batch, Structure
from mosso.dynamics import noise
from mosso.dynamics.units import ATOMIC_MASSES, KB
from mosso.graph.graph import Graph
from mosso.kernels import sum_segments

SEEDS = range(-(2**63), 2**63)  # what an int64 holds


class Evaluation(Protocol):
    """What a force field says of a batch."""

    @property
    def energy(self) -> Tensor: ...  # (B,) float64, eV

    @property
    def forces(self) -> Tensor | None: ...  # (N, 3) float64, eV/A; always there when dynamics ask

    @property
    def stress(self) -> Tensor | None: ...  # (B, 3, 3) float64, eV/A^3, tension positive; None when not asked


class ForceField(Protocol):
    """What the dynamics need of a potential."""

    @property
    def device(self) -> torch.device: ...

    @property
    def cutoff(self) -> float: ...  # Angstrom

    def batch(self, structures: Iterable[Any]) -> Batch: ...  # refuses charges and spins it does not stand for

    def graph(self, batch: Batch) -> Graph: ...

    def evaluate(self, batch: Batch, graph: Graph, *, stress: bool = False) -> Evaluation: ...


@dataclass(frozen=True, eq=False)
class State:
    """B systems of N atoms in motion, on one device. Steps return a new State.

    Attributes:
        batch: numbers, positions (float64, A, never wrapped), cells.
        momenta_N3: (N, 3) float64, sqrt(eV amu) (ASE's unit), at the same time as the positions.
        masses_N: (N,) float64, amu.
        index_N: (N,) int64, index of the atom within its system.
        free_N: (N,) bool, atoms that move; the others keep zero momenta and move with the cell only.
        num_free_B: (B,) int64, how many of each system move, at least one.
        conserved_B: (B,) int64, momenta that stay zero where nothing pushes the system as a whole: 3 for the centre of
            mass, and for molecules 3 more for the rotation (2 when linear); 0 for a single atom, whose drift is kept, and
            for systems with fixed atoms, which hold the others.
        seeds_B: (B,) int64; with ``step`` the whole state of the random numbers.
        energy_B, forces_N3, stress_B33: eV, eV/A, eV/A^3 at these positions; stress is None when not asked for and
            means nothing for systems without a volume.
        step: () int64.
        time: () float64, fs.
        exchanged_B: (B,) float64, eV, energy received so far from thermostat and barostat.
        chain_B2M: (B, 2, M) float64, positions and velocities of a Nose-Hoover chain; M = 0 without one.
    """

    batch: Batch
    momenta_N3: Tensor
    masses_N: Tensor
    index_N: Tensor
    free_N: Tensor
    num_free_B: Tensor
    conserved_B: Tensor
    seeds_B: Tensor
    energy_B: Tensor
    forces_N3: Tensor
    stress_B33: Tensor | None
    step: Tensor
    time: Tensor
    exchanged_B: Tensor
    chain_B2M: Tensor

    @property
    def counts_B(self) -> Tensor:
        """(B,) int64, atoms per system."""
        return self.batch.counts_B

    @property
    def seeds_N(self) -> Tensor:
        return self.seeds_B[self.batch.system_N]


def kinetic_energy(state: State) -> Tensor:
    """(B,) float64, eV."""
    return kernels.kinetic_energy(state.momenta_N3, state.masses_N, state.counts_B)


def virial_pressure(state: State) -> Tensor:
    """(B,) float64, eV/A^3: -tr(stress) / 3, what the atoms' interactions contribute. Needs the stress."""
    assert state.stress_B33 is not None
    return -state.stress_B33.diagonal(dim1=1, dim2=2).sum(1) / 3.0


def pressure(state: State) -> Tensor:
    """(B,) float64, eV/A^3: 2 K / 3 V of the ideal gas and the virial."""
    return 2.0 * kinetic_energy(state) / (3.0 * state.batch.volume_B) + virial_pressure(state)


def pressure_tensor(state: State) -> Tensor:
    """(B, 3, 3) float64, eV/A^3, symmetric: momentum flux of the ideal gas and the virial; a third of its trace is ``pressure``."""
    assert state.stress_B33 is not None
    # six sums of numbers: a sum of matrices is not spread over the device
    flux = {
        (i, j): sum_segments(state.momenta_N3[:, i] * state.momenta_N3[:, j] / state.masses_N, state.counts_B)
        for i in range(3)
        for j in range(i, 3)
    }
    rows = [torch.stack([flux[min(i, j), max(i, j)] for j in range(3)], 1) for i in range(3)]
    return torch.stack(rows, 1) / state.batch.volume_B[:, None, None] - state.stress_B33


def make_batch(potential: ForceField, structures: Any) -> tuple[list[Structure], Batch]:
    """One structure or several (mosso or ASE), checked, and as a batch on the potential's device."""
    single = isinstance(structures, Structure) or hasattr(structures, "positions") or not isinstance(structures, Iterable)
    checked = [Structure.of(s) for s in ([structures] if single else structures)]
    if not checked:
        raise ValueError("No structures given: pass at least one.")
    for b, structure in enumerate(checked):
        if len(structure) == 0:
            raise BadStructure(b, "it has no atoms: remove it from the input.")
    return checked, potential.batch(checked)


def start(
    potential: ForceField,
    structures: Any,
    temperature: float,
    seed: int | Sequence[int] = 0,
    *,
    masses: Sequence[float] | Tensor | None = None,
) -> State:
    """The state at step 0 with Maxwell-Boltzmann velocities.

    Momenta are drawn at ``temperature`` and not rescaled, so that they are a sample of the ensemble; the drift of the
    centre of mass is removed, and the rotation of systems without any periodic direction. Atoms that a structure calls
    ``fixed`` are at rest; in their systems nothing is removed.

    Args:
        potential: gives device, energy and forces.
        structures: one or several structures (mosso.Structure or ase.Atoms).
        temperature: K; 0 for atoms at rest.
        seed: system b uses ``seed + b``; a sequence gives each system its own. The same seed gives a system
            the same trajectory alone and in any batch. From -2^63 to 2^63 - 1.
        masses: (N,) amu, for isotopes; standard atomic weights by default.
    """
    if not 0.0 <= temperature < math.inf:
        raise ValueError(f"The starting temperature is {temperature} K: give a finite one of zero or more.")
    checked, batch = make_batch(potential, structures)
    device, num_systems = batch.positions_N3.device, batch.num_systems
    seeds = [seed + b for b in range(num_systems)] if isinstance(seed, int) else [int(s) for s in seed]
    if len(seeds) != num_systems:
        raise ValueError(f"{len(seeds)} seeds for {num_systems} systems: give one integer or one per system.")
    for seed_of_system in seeds:
        if seed_of_system not in SEEDS:
            raise ValueError(f"The seed {seed_of_system} does not fit into 64 bits: give one from {SEEDS[0]} to {SEEDS[-1]}.")
    masses_N = _masses(batch, masses)
    counts_B = batch.counts_B
    index_N = torch.arange(batch.num_atoms, device=device) - torch.tensor(batch.offsets[:-1], device=device)[batch.system_N]
    seeds_B = torch.tensor(seeds, dtype=torch.int64, device=device)
    step = torch.zeros((), dtype=torch.int64, device=device)
    zero_B = torch.zeros(num_systems, dtype=torch.float64, device=device)

    normal_N3 = noise.gaussian(seeds_B[batch.system_N], index_N, step, noise.VELOCITIES)
    free_N = free_atoms(checked, device)
    num_free_B = sum_segments(free_N.to(torch.float64), counts_B).to(torch.int64)
    if not bool((num_free_B > 0).all()):
        raise BadStructure(int(torch.argmin(num_free_B)), "all its atoms are fixed: leave at least one to move.")
    momenta_N3 = torch.sqrt(masses_N * (KB * temperature) * free_N).unsqueeze(1) * normal_N3
    momenta_N3, conserved_B = remove_drift(batch, momenta_N3, masses_N, counts_B, num_free_B == counts_B)

    output = potential.evaluate(batch, potential.graph(batch), stress=bool(batch.pbc_B3.all(1).any()))
    return State(
        batch=batch,
        momenta_N3=momenta_N3,
        masses_N=masses_N,
        index_N=index_N,
        free_N=free_N,
        num_free_B=num_free_B,
        conserved_B=conserved_B,
        seeds_B=seeds_B,
        step=step,
        time=torch.zeros((), dtype=torch.float64, device=device),
        exchanged_B=zero_B,
        chain_B2M=zero_B.new_zeros(num_systems, 2, 0),
        **evaluation_fields(output),
    )


def evaluation_fields(output: Evaluation) -> dict[str, Any]:
    """The fields of State that an evaluation fills, as copies: the potential may reuse its buffers."""
    assert output.forces is not None
    stress_B33 = None if output.stress is None else output.stress.detach().clone()
    return {"energy_B": output.energy.detach().clone(), "forces_N3": output.forces.detach().clone(), "stress_B33": stress_B33}


def _masses(batch: Batch, masses: Sequence[float] | Tensor | None) -> Tensor:
    device = batch.positions_N3.device
    if masses is None:
        return torch.tensor(ATOMIC_MASSES, dtype=torch.float64, device=device)[batch.numbers_N]
    masses_N = torch.as_tensor(masses, dtype=torch.float64).to(device)
    if masses_N.shape != batch.numbers_N.shape or not bool((masses_N > 0).all()):
        raise ValueError(f"masses must be {batch.num_atoms} positive numbers in amu, one per atom.")
    return masses_N


def free_atoms(structures: Sequence[Structure], device: torch.device) -> Tensor:
    """(N,) bool, atoms that no structure calls fixed."""
    masks = [np.zeros(len(s), dtype=bool) if s.fixed is None else s.fixed for s in structures]
    return torch.as_tensor(~np.concatenate(masks), device=device)


def remove_drift(batch: Batch, momenta_N3: Tensor, masses_N: Tensor, counts_B: Tensor, loose_B: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 3) momenta without centre-of-mass motion and, for systems without periodic directions, without rotation;
    and (B,) int64, how many momenta that removed. A single atom and systems not ``loose_B`` (B,) are left as they are."""
    system_N = batch.system_N
    several_B = (counts_B > 1) & loose_B
    total_B1 = sum_segments(masses_N, counts_B).unsqueeze(1)
    velocity_B3 = sum_segments(momenta_N3, counts_B) / total_B1 * several_B.unsqueeze(1)
    momenta_N3 = momenta_N3 - masses_N.unsqueeze(1) * velocity_B3[system_N]

    centre_B3 = sum_segments(masses_N.unsqueeze(1) * batch.positions_N3, counts_B) / total_B1
    arm_N3 = batch.positions_N3 - centre_B3[system_N]
    square_N11 = arm_N3.square().sum(1)[:, None, None]
    eye_33 = torch.eye(3, dtype=arm_N3.dtype, device=arm_N3.device)
    inertia_N33 = masses_N[:, None, None] * (square_N11 * eye_33 - arm_N3.unsqueeze(2) * arm_N3.unsqueeze(1))
    inertia_B33 = sum_segments(inertia_N33.reshape(-1, 9), counts_B).reshape(-1, 3, 3)
    # The tolerance decides when a molecule counts as linear, with no moment of inertia about its axis.
    inverse_B33 = torch.linalg.pinv(inertia_B33, rtol=1e-8, hermitian=True)
    angular_B3 = sum_segments(torch.linalg.cross(arm_N3, momenta_N3), counts_B)
    free_B = several_B & ~batch.pbc_B3.any(1)
    rotation_B3 = (inverse_B33 @ angular_B3.unsqueeze(2)).squeeze(2) * free_B.unsqueeze(1)
    momenta_N3 = momenta_N3 - masses_N.unsqueeze(1) * torch.linalg.cross(rotation_B3[system_N], arm_N3)
    rank_B = torch.linalg.matrix_rank(inertia_B33, rtol=1e-8, hermitian=True)
    return momenta_N3, 3 * several_B + rank_B * free_B
