"""From a training configuration and statistics to a model with fresh weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mosso.precision import Precision
from mosso.train.config import TrainConfig
from mosso.train.statistics import Statistics

# What a recipe need not say. The activation constant gives silu(x) of unit-normal x a unit second moment, rounded as e3nn does.
MACE_DEFAULTS: dict[str, Any] = {
    "num_bessel": 8,
    "num_polynomial_cutoff": 5,
    "max_ell": 3,
    "interactions": ("RealAgnostic", "RealAgnosticResidual"),
    "correlation": (3, 3),
    "radial_mlp": (64, 64, 64),
    "readout_mlp": 16,
    "heads": ("default",),
    "distance_transform": "none",
    "pair_repulsion": False,
    "scale_shift": True,
    "activation_constant": 1.679176792398942,
}

Builder = Callable[[TrainConfig, Statistics], nn.Module]


def build_model(config: TrainConfig, statistics: Statistics) -> nn.Module:
    """The model that ``config.model`` asks for, on the CPU, initialised from ``config.seed``, with E0, scale and shift set."""
    builders: dict[str, Builder] = {"mace": _mace}
    if config.model.architecture not in builders:
        raise ValueError(f"Cannot train architecture {config.model.architecture!r}: choose one of {', '.join(builders)}.")
    model = builders[config.model.architecture](config, statistics)
    set_energy_scale(model, config, statistics)
    return model


def _mace(config: TrainConfig, statistics: Statistics) -> nn.Module:
    from mosso.models.initial import initial_tensors
    from mosso.models.mace import MACE, MACESpec

    options = MACE_DEFAULTS | config.model.options
    from_data = {
        "species": config.model.species,
        "r_max": config.model.cutoff,
        "avg_num_neighbors": (statistics.avg_num_neighbors,) * len(options["interactions"]),
    }
    if clash := sorted(from_data.keys() & options.keys()):
        raise ValueError(f"model.options may not set {', '.join(clash)}: {'it comes' if len(clash) == 1 else 'they come'} from elsewhere.")
    spec = MACESpec.from_dict(options | from_data)
    return MACE(spec, initial_tensors(spec, config.seed), Precision.named(config.precision))


@torch.no_grad()
def set_energy_scale(model: nn.Module, config: TrainConfig, statistics: Statistics) -> None:
    """Write E0, the scale (rms force) and the shift into the buffers of ``model``, where it has them."""
    shift = statistics.mean_energy if config.model.shift == "mean" else 0.0
    values = {
        "atomic_energies_fn.atomic_energies": statistics.atomic_energies,
        "scale_shift.scale": statistics.rms_forces,
        "scale_shift.shift": shift,
    }
    tensors = dict(model.named_buffers()) | dict(model.named_parameters())
    for name, value in values.items():
        if name in tensors:
            tensors[name].copy_(torch.as_tensor(value, dtype=torch.float64).expand_as(tensors[name]))
