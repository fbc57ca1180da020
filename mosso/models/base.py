"""The contract every architecture fulfils."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mosso.graph.graph import Graph
from mosso.kernels import SpeciesGroups


@dataclass(frozen=True, eq=False)
class NodeOutput:
    """What an architecture says of its atoms.

    Attributes:
        energy_N: (N,) float64, eV, including E0.
        descriptors_NF: (N, F), rotation-covariant node features of all layers side by side; None from forms of a model that
            are made for energies and forces alone.
    """

    energy_N: Tensor
    descriptors_NF: Tensor | None


class Evaluator(Protocol):
    """A potential as a function of edge vectors.

    Everything that depends on positions goes through ``vectors_E3``; forces, stress and virials then follow
    from one backward pass to it (mosso.models.outputs).
    """

    def __call__(
        self, vectors_E3: Tensor, species_N: Tensor, graph: Graph, head: int = 0, groups: SpeciesGroups | None = None
    ) -> NodeOutput: ...


class Form(Protocol):
    """A potential in a form that may prepare itself for the elements of a system."""

    def for_species(self, present: tuple[int, ...]) -> Evaluator:
        """The evaluator of systems made of the species ``present`` (ascending indices); it holds what was made for them."""
        ...


class Model(Evaluator, Form, Protocol):
    """An architecture with its weights: an evaluator that can say what it is."""

    @property
    def cutoff(self) -> float:
        """Angstrom."""
        ...

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers known, ascending; the position is the species index."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the readout heads."""
        ...

    @property
    def charge(self) -> float:
        """Total charge the model stands for, in elementary charges."""
        ...

    @property
    def spin(self) -> int:
        """Spin multiplicity the model stands for."""
        ...

    def describe(self) -> dict[str, Any]:
        """The architecture as plain data (JSON types only)."""
        ...

    def to(self, device: torch.device) -> "Model": ...


def species_index(numbers_N: Tensor, species: Sequence[int]) -> Tensor:
    """(N,) int64 positions of atomic numbers in ``species``; unknown elements are a ValueError that names them."""
    table = torch.full((max([*species, 0]) + 2,), -1, dtype=torch.int64, device=numbers_N.device)
    table[torch.tensor(species, device=numbers_N.device)] = torch.arange(len(species), device=numbers_N.device)
    index_N = table[numbers_N.clamp(min=0, max=table.shape[0] - 1)]
    if bool((index_N < 0).any()):
        unknown = sorted(set(numbers_N[index_N < 0].tolist()))
        raise ValueError(f"The model {not_known(unknown, species)}")
    return index_N


def not_known(unknown: Sequence[int], species: Sequence[int]) -> str:
    """What a model of ``species`` says of the elements ``unknown``."""
    some = f"element{'s' if len(unknown) > 1 else ''} {name_elements(unknown)}"
    return f"does not know {some}; it knows {name_elements(species)}."


_SYMBOLS = (  # noqa: SIM905 a table reads better as text
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru "
    "Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn "
    "Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()


def name_elements(numbers: Sequence[int]) -> str:
    """Chemical symbols of atomic numbers, as a comma-separated list."""
    return ", ".join(_SYMBOLS[z] if 0 <= z < len(_SYMBOLS) else f"Z={z}" for z in numbers)
