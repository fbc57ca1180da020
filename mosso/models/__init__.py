"""Architectures by name."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mosso.models.base import Model
from mosso.models.mace import MACE, MACESpec
from mosso.precision import Precision

ARCHITECTURES = {"mace": (MACESpec, MACE)}


def build(architecture: str, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], precision: Precision) -> Model:
    """The model that a checkpoint describes, on the CPU, ready for evaluation."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"Architecture {architecture!r} is not known to this version of mosso: it knows {', '.join(ARCHITECTURES)}.")
    specification, model = ARCHITECTURES[architecture]
    return model(specification.from_dict(spec), tensors, precision).eval().requires_grad_(False)
