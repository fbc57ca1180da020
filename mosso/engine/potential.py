"""Potential: a model on a device under a precision policy, called with structures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mosso import kernels
from mosso.data.structure import BadStructure, Batch, Structure
from mosso.engine.artifact import manifest_of, read_artifact
from mosso.engine.convert import cached_artifact, read_source
from mosso.graph.graph import Graph
from mosso.graph.neighbors import neighbor_list, refuse_overlaps
from mosso.kernels import SpeciesGroups
from mosso.models import build, evaluation_form, outputs
from mosso.models.base import Evaluator, not_known, species_index
from mosso.models.outputs import Output
from mosso.precision import Precision
from mosso.weights import store
from mosso.weights.checkpoint import Checkpoint

Device = Literal["auto", "cpu", "cuda"] | str


def load(model: str | Path, *, device: Device = "auto", precision: str | Precision = "fp64", head: str | None = None) -> "Potential":
    """A potential by name (``mosso models`` lists them) or from a file.

    Args:
        model: a named model, a ``.mosso`` file, or an upstream checkpoint that ``mosso convert`` reads.
        device: ``auto`` takes CUDA where there is one.
        precision: a policy of mosso.precision.
        head: readout head; needed only when the model has several.

    Raises:
        ValueError: unknown name, unreadable or unsupported file, unknown precision or head, device not there.
        FileNotFoundError: no such file, or a named model that could not be fetched (says what to put where).
    """
    policy, where = Precision.named(precision), find_device(device)
    name = Path(model).stem if is_file(model) else str(model)
    return Potential(read_checkpoint(model), name=name, device=where, precision=policy, head=head)


def is_file(model: str | Path) -> bool:
    """Whether ``model`` means a file; anything without an ending that does not exist is a model's name."""
    return isinstance(model, Path) or Path(model).suffix != "" or Path(model).expanduser().exists()


def read_checkpoint(model: str | Path) -> Checkpoint:
    """Architecture and weights of a named model, a model file or an upstream checkpoint; errors as for ``load``."""
    if not is_file(model):
        return read_artifact(cached_artifact(store.find(str(model))))
    path = Path(model).expanduser()
    return read_artifact(path) if path.suffix == ".mosso" else read_source(path)


def find_device(device: Device) -> torch.device:
    """The torch device; a ValueError when it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"Unknown device {device!r}: choose auto, cpu or cuda.") from None
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"Unknown device {device!r}: choose auto, cpu or cuda.")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"Device {device!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices; use --device cpu or auto."
        )
    return found


class Potential:
    """Energies, forces and stress of structures.

    Attributes:
        name: what the model is called.
        manifest: architecture, provenance, licence and units as stored with the model.
        model: the architecture, in evaluation mode on ``device``.
        evaluator: the form of it that gives energies and first derivatives fastest there.
        precision: the policy every result names.
        device: where it computes.
        head: the readout head in use.
        compiled: choices of outputs and sizes whose kernels have been compiled; kernels are cut by size.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        name: str = "",
        device: torch.device | str = "cpu",
        precision: str | Precision = "fp64",
        head: str | None = None,
    ) -> None:
        self.name = name
        self.manifest: dict[str, Any] = manifest_of(checkpoint)
        self.precision = Precision.named(precision)
        self.device = torch.device(device)
        self.model = build(checkpoint.architecture, checkpoint.spec, checkpoint.tensors, self.precision).to(self.device)
        self.evaluator = evaluation_form(self.model, self.device)
        self.head = self._choose_head(head)
        self.compiled: set[tuple[int, ...]] = set()

    def _choose_head(self, head: str | None) -> str:
        heads = self.model.heads
        if head is None and len(heads) == 1:
            return heads[0]
        if head is None:
            raise ValueError(f"The model has {len(heads)} heads: name one of {', '.join(heads)} with head= or --head.")
        if head not in heads:
            raise ValueError(f"The model has no head {head!r}: choose one of {', '.join(heads)}.")
        return head

    @property
    def cutoff(self) -> float:
        """Angstrom."""
        return self.model.cutoff

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers the model knows."""
        return self.model.species

    @property
    def heads(self) -> tuple[str, ...]:
        return self.model.heads

    def __call__(
        self,
        structures: Any,
        *,
        forces: bool = True,
        stress: bool | None = None,
        virials: bool = False,
    ) -> Output:
        """Evaluate one structure or an iterable of them.

        Args:
            structures: mosso.Structure or ase.Atoms, or several; several are evaluated as one batch.
            forces: whether to compute forces.
            stress: None computes it where at least one system has three lattice vectors; True insists that all have.
            virials: whether to compute per-atom virials.

        Returns:
            Output; for one structure without the batch axis.

        Raises:
            ValueError: an element, charge or spin the model does not know; atoms on top of each other; stress asked of
                a system without volume.
        """
        single = hasattr(structures, "positions")
        items = [Structure.of(s) for s in ([structures] if single else structures)]
        batch = self.batch(items)
        if stress and any(s.volume == 0 for s in items):
            raise ValueError("Stress needs a cell with a volume: give three independent lattice vectors or do not ask for stress.")
        wanted = any(s.volume > 0 for s in items) if stress is None else stress
        output = self.evaluate(batch, self.graph(batch), forces=forces, stress=wanted, virials=virials)
        return output.split()[0] if single else output

    def batch(self, structures: Iterable[Any]) -> Batch:
        """The structures as tensors on the device, after checking that the model stands for their charge and spin."""
        items = [Structure.of(s) for s in structures]
        self._check_charges(items)
        return Batch.of(items, self.device)

    def _check_charges(self, structures: Sequence[Structure]) -> None:
        for number, structure in enumerate(structures):
            if structure.charge != self.model.charge or structure.spin != self.model.spin:
                raise BadStructure(
                    number,
                    f"the model stands for total charge {self.model.charge:g} and spin multiplicity {self.model.spin}, the structure "
                    f"has {structure.charge:g} and {structure.spin}: remove them from the input or use a model that knows them.",
                )

    def check(self, structures: Sequence[Structure]) -> None:
        """Whether all of them can be evaluated, in a small part of the time that it takes to.

        Raises:
            BadStructure: the first one with an element, charge or spin that the model does not know, or the one whose atoms are closest
                to each other where they are on top of each other.
        """
        self._check_charges(structures)
        for number, structure in enumerate(structures):
            if unknown := sorted(set(structure.numbers.tolist()) - set(self.species)):
                raise BadStructure(number, f"the model {not_known(unknown, self.species)}")
        refuse_overlaps(Batch.of(structures))

    def graph(self, batch: Batch) -> Graph:
        """Neighbours of a batch within the cutoff."""
        return neighbor_list(batch, self.cutoff)

    def evaluate(self, batch: Batch, graph: Graph, *, forces: bool = True, stress: bool = False, virials: bool = False) -> Output:
        """Energy, forces, stress of a batch whose neighbours are known."""
        return self.bind(batch).evaluate(batch, graph, forces=forces, stress=stress, virials=virials)

    def bind(self, batch: Batch) -> "BoundPotential":
        """This potential for the atoms of ``batch``, wherever they move; a ValueError names elements it does not know."""
        species_N = species_index(batch.numbers_N, self.species)
        groups = SpeciesGroups.of(species_N)
        return BoundPotential(self, self.evaluator.for_species(groups.present), species_N, groups)

    def hessian(self, structure: Any) -> Tensor:
        """(3N, 3N) float64, eV/Angstrom^2, exact second derivatives of the energy of one structure."""
        batch = self.batch([structure])
        species_N = species_index(batch.numbers_N, self.species)
        return outputs.hessian(self.model, batch, self.graph(batch), species_N, head=self.heads.index(self.head))

    def descriptors(self, structures: Any) -> Tensor:
        """(N, F) node features of all layers, rotating with the structure."""
        batch = self.batch([structures] if hasattr(structures, "positions") else structures)
        return outputs.descriptors(self.model, batch, self.graph(batch), species_index(batch.numbers_N, self.species))


@dataclass(frozen=True, eq=False)
class BoundPotential:
    """A Potential for the same atoms again and again: nothing in ``evaluate`` waits for the device, so it can be captured.

    Attributes:
        potential: whose head and precision are used.
        evaluator: its model in the form for these elements.
        species_N: (N,) int64, index of each atom's element in the model.
        groups: the atoms by species.
    """

    potential: Potential
    evaluator: Evaluator
    species_N: Tensor
    groups: SpeciesGroups

    def evaluate(self, batch: Batch, graph: Graph, *, forces: bool = True, stress: bool = False, virials: bool = False) -> Output:
        """Energy, forces, stress of the atoms at the positions of ``batch``; the call that dynamics makes every step."""
        potential = self.potential
        compute = partial(
            outputs.evaluate,
            self.evaluator,
            batch,
            graph,
            self.species_N,
            head=potential.heads.index(potential.head),
            forces=forces,
            stress=stress,
            virials=virials,
            precision=potential.precision.name,
            groups=self.groups,
        )
        kind = (forces, stress, virials, batch.num_atoms.bit_length(), graph.capacity.bit_length())
        if kind not in potential.compiled:
            kernels.compile_together(compute, potential.device)
            potential.compiled.add(kind)
        return compute()
