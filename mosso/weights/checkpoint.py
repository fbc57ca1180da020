"""What every reader of upstream files hands over: an architecture as plain data and its tensors."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model apart from any code.

    Attributes:
        architecture: name of the architecture, e.g. ``mace``.
        spec: hyperparameters, JSON types only; has at least ``species`` (ascending atomic numbers), ``r_max``
            (Angstrom) and ``heads``.
        tensors: upstream state dict in the stock layout, bit for bit; eV and Angstrom.
        provenance: ``source``, ``sha256`` (of the file it came from), ``dtype``, ``reader``, ``licence``, ``citation``.
    """

    architecture: str
    spec: dict[str, Any]
    tensors: dict[str, Tensor]
    provenance: dict[str, Any]
