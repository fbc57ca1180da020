"""One system with its edges and its true answer, for us and for the peers."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mosso.bench.cases import SYSTEMS, Repeats, System
from mosso.data.structure import Batch
from mosso.engine.potential import Potential
from mosso.graph.graph import Graph
from mosso.graph.neighbors import neighbor_list
from mosso.kernels import SpeciesGroups, dispatch
from mosso.models import outputs
from mosso.models.base import species_index

# Errors that pass whatever float32 makes of the system; forces relative to their root mean square, energies and stress to their size.
FLOORS = {"forces": 1e-6, "energy": 1e-7, "stress": 1e-6}
# How much more policies may make of it that round the operands of products: to 11 bits, or to 8.
ROUNDING = {"tf32": 3e3, "fp16": 3e3, "bf16": 3e4}
# Beyond the floors, how much worse than the reference ops under the same policy a result may be: the kernel contract.
MAX_RATIO = 2.0
# How far atoms move between calls, Angstrom: new numbers, the same neighbours.
STEP = 1e-4


@dataclass(frozen=True)
class Answer:
    """(B,) energies (eV), (N, 3) forces (eV/A), (B, 3, 3) stress (eV/A^3); float64."""

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray | None

    @staticmethod
    def of(output: outputs.Output) -> "Answer":
        assert output.forces is not None
        host = lambda t: t.detach().double().cpu().numpy()  # noqa: E731
        return Answer(host(output.energy), host(output.forces), None if output.stress is None else host(output.stress))

    def repeated(self, repeats: Repeats) -> "Answer":
        """The answer for that many cells in one."""
        count = math.prod(repeats)
        return Answer(self.energy * count, np.tile(self.forces, (count, 1)), self.stress)

    def errors(self, truth: "Answer") -> dict[str, float]:
        """Relative errors: root mean square over all atoms, largest over systems for energies, norm for stress."""
        found = {
            "energy": float(np.max(np.abs(self.energy - truth.energy) / np.abs(truth.energy))),
            "forces": float(np.linalg.norm(self.forces - truth.forces) / np.linalg.norm(truth.forces)),
        }
        if self.stress is not None and truth.stress is not None:
            found["stress"] = float(np.linalg.norm(self.stress - truth.stress) / np.linalg.norm(truth.stress))
        return found


class Problem:
    """A system on a device with the edges of its displaced atoms.

    Attributes:
        name: of the system.
        batch, graph: what is evaluated.
        truth: float64 reference ops on the same device, for repeated cells on one of them.
    """

    def __init__(self, name: str, exact: Potential) -> None:
        self.name, self.system = name, SYSTEMS[name]
        self.batch, self.graph = batch_and_graph(exact, self.system)
        self.truth = reference_answer(exact, self.system)
        self._generator = torch.Generator(self.batch.positions_N3.device).manual_seed(0)

    def moved(self) -> Batch:
        """The batch with every atom moved by STEP; new numbers at every call."""
        positions_N3 = self.batch.positions_N3
        noise = torch.randn(positions_N3.shape, generator=self._generator, device=positions_N3.device, dtype=torch.float64)
        return replace(self.batch, positions_N3=positions_N3 + STEP * noise)

    def save(self, path: Path) -> None:
        """For programs that do not know mosso; edges ordered by sender, as mace makes them."""
        order = self.graph.transpose_E

        def host(values: Tensor, kind: Any) -> np.ndarray:
            return values.cpu().numpy().astype(kind)

        np.savez(
            path,
            numbers=host(self.batch.numbers_N, np.int64),
            positions=host(self.batch.positions_N3, np.float64),
            cell=host(self.batch.cell_B33, np.float64),
            system=host(self.batch.system_N, np.int64),
            senders=host(self.graph.senders_E[order], np.int32),
            receivers=host(self.graph.receivers_E[order], np.int32),
            shifts=host(self.graph.shifts_E3[order], np.int8),
        )


def batch_and_graph(potential: Potential, system: System) -> tuple[Batch, Graph]:
    """The atoms and edges of a system on the potential's device."""
    cells = neighbor_list(potential.batch(system.cells()), potential.cutoff)
    graph = repeated_graph(cells, system.repeats) if system.repeats != (1, 1, 1) else cells
    return potential.batch(system.structures()), graph


def repeated_graph(graph: Graph, repeats: Repeats) -> Graph:
    """The edges of one structure copied as ``cases.repeated`` copies its atoms: far cheaper than a search."""
    device = graph.senders_E.device
    num_atoms, sizes = graph.receiver_offsets.shape[0] - 1, torch.tensor(repeats, device=device)
    copy_R13 = torch.cartesian_prod(*(torch.arange(n, device=device) for n in repeats)).reshape(-1, 1, 3)
    # A shift of S cells from sender to receiver: the sender sits S cells before the receiver's copy, modulo the large cell.
    senders_RE3 = (copy_R13 - graph.shifts_E3) % sizes
    shifts_RE3 = (graph.shifts_E3 - copy_R13 + senders_RE3) // sizes
    copy_RE = (senders_RE3[..., 0] * repeats[1] + senders_RE3[..., 1]) * repeats[2] + senders_RE3[..., 2]
    first_R1 = num_atoms * torch.arange(len(copy_R13), device=device).unsqueeze(1)
    return Graph.from_sorted(
        (copy_RE * num_atoms + graph.senders_E).flatten(),
        (first_R1 + graph.receivers_E).flatten(),
        shifts_RE3.flatten(0, 1),
        num_atoms * len(copy_R13),
        graph.cutoff,
    )


def reference_answer(potential: Potential, system: System) -> Answer:
    """The stock form with reference ops, under the potential's policy."""
    batch = potential.batch(system.cells())
    graph: Graph = neighbor_list(batch, potential.cutoff)
    species_N = species_index(batch.numbers_N, potential.species)
    with dispatch.prefer("reference"):
        output = outputs.evaluate(potential.model, batch, graph, species_N, stress=True, groups=SpeciesGroups.of(species_N))
    return Answer.of(output).repeated(system.repeats)


def error_bars(precision: str, rounding: dict[str, float]) -> dict[str, float]:
    """What a result may be off by, given what the reference ops make of the same system under the same policy."""
    share = ROUNDING.get(precision, 1.0)
    return {name: max(share * floor, MAX_RATIO * rounding.get(name, 0.0)) for name, floor in FLOORS.items()}
