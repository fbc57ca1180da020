"""What is profiled: a model by name, atoms by name, and the call that is made of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from mosso.bench import systems
from mosso.bench.cases import MODELS
from mosso.bench.limits import Cost, costs, size_of
from mosso.bench.random_weights import checkpoint_of
from mosso.bench.rates import RATES, Rates
from mosso.data.structure import Batch, Structure
from mosso.engine.capture import CapturedPotential
from mosso.engine.potential import Device, Potential, find_device, is_file, load
from mosso.graph.graph import Graph
from mosso.models.mace import MACE
from mosso.precision import Precision
from mosso.weights import store

STEP = 1e-4  # Angstrom that atoms move before a call, as in serve.py


def has_file(model: str) -> bool:
    """Whether ``model`` has weights in a file; otherwise it is a shape of the benchmark. A ValueError for a name that is neither."""
    if model in MODELS:
        return False
    if not is_file(model):
        try:
            store.find(model)
        except ValueError as error:
            raise ValueError(f"{error} So do shapes of the benchmark, with random weights: {', '.join(MODELS)}.") from None
    return True


def potential_of(model: str, device: Device, precision: str, head: str | None = None) -> Potential:
    """A model file, a named model or a shape of the benchmark; errors as for ``load``."""
    if has_file(model):
        return load(model, device=device, precision=precision, head=head)
    policy = Precision.named(precision)
    return Potential(checkpoint_of(model, None), name=model, device=find_device(device), precision=policy, head=head)


def structures_of(system: str) -> list[Structure]:
    """The structures of a system of ``mosso bench``; a ValueError lists them."""
    if system not in systems.SYSTEMS:
        raise ValueError(f"Unknown system {system!r}: choose one of {', '.join(systems.SYSTEMS)}.")
    return systems.SYSTEMS[system].structures(1)


@dataclass(frozen=True)
class Subject:
    """A potential, its atoms and their edges, with stress or without."""

    potential: Potential
    batch: Batch
    graph: Graph
    stress: bool

    @staticmethod
    def of(potential: Potential, structures: list[Structure], stress: bool) -> "Subject":
        if stress and any(structure.volume == 0 for structure in structures):
            raise ValueError("Stress needs a cell with a volume: give three independent lattice vectors or leave out --stress.")
        batch = potential.batch(structures)
        return Subject(potential, batch, potential.graph(batch), stress)

    @property
    def device(self) -> torch.device:
        return self.potential.device

    def moved(self) -> Batch:
        """The batch with every atom moved a little: new numbers, the same neighbours."""
        positions_N3 = self.batch.positions_N3
        return replace(self.batch, positions_N3=positions_N3 + STEP * torch.randn_like(positions_N3))

    def call(self, potential: Potential | CapturedPotential) -> Callable[[Batch], Any]:
        return lambda batch: potential.evaluate(batch, self.graph, stress=self.stress)

    def costs(self) -> list[Cost]:
        """What one call must do at least; nothing for an architecture whose work is not counted."""
        if not isinstance(self.potential.model, MACE):
            return []
        return list(costs(self.potential.model.spec, size_of(self.potential, self.batch, self.graph)))

    def known_rates(self) -> Rates | None:
        """Of the device under the policy; None where the table does not have them."""
        gpu = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        return RATES.get((gpu, self.potential.precision.name))
