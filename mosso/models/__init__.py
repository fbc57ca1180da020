"""Architectures by name."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mosso import kernels
from mosso.models.base import Form, Model
from mosso.models.mace import MACE, MACESpec
from mosso.models.tabulated_mace import TabulatedMACE
from mosso.precision import Precision

ARCHITECTURES = {"mace": (MACESpec, MACE)}


def build(architecture: str, spec: Mapping[str, Any], tensors: Mapping[str, Tensor], precision: Precision) -> Model:
    """The model that a checkpoint describes, on the CPU, ready for evaluation."""
    if architecture not in ARCHITECTURES:
        raise ValueError(f"Architecture {architecture!r} is not known to this version of mosso: it knows {', '.join(ARCHITECTURES)}.")
    specification, model = ARCHITECTURES[architecture]
    return model(specification.from_dict(spec), tensors, precision).eval().requires_grad_(False)


def evaluation_form(model: Model, device: torch.device) -> Form:
    """The form of ``model`` that gives energies and first derivatives fastest on ``device``; the model itself where it has no other."""
    # Without its kernel a table has to be spread out over all edges, which costs more than the networks it stands for.
    tabulate = kernels.preferred("tabulated_convolution", device) == "triton"
    if tabulate and isinstance(model, MACE) and model.precision.table_error is not None:
        return TabulatedMACE(model)
    return model
