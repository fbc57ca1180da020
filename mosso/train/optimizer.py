"""AdamW with decay on chosen weights, its learning-rate schedule, and a step that does nothing when the gradient is not finite."""

import math
from collections.abc import Iterable
from fnmatch import fnmatch

import torch
from torch import Tensor, nn

from mosso.train.config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW in two groups: parameters whose name matches one of the patterns ``decay_on`` decay, the others do not."""
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[any(fnmatch(name, pattern) for pattern in config.decay_on)].append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "weight_decay": config.weight_decay if decays else 0.0} for decays, params in groups.items() if params],
        lr=config.learning_rate,
        betas=config.betas,
        amsgrad=config.amsgrad,
        fused=True,  # the fused step can be called off on the device, see guarded_step
    )


def learning_rate(config: OptimizerConfig, step: int, max_steps: int) -> float:
    """Rate of step 0, 1, ...: linear rise over ``warmup_steps``, then half a cosine down to ``final_factor``."""
    warmup = min(config.warmup_steps, max_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, max_steps - 1 - warmup))
    return config.learning_rate * (config.final_factor + (1.0 - config.final_factor) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def guarded_step(optimizer: torch.optim.AdamW, parameters: Iterable[nn.Parameter], loss: Tensor, clip_norm: float) -> Tensor:
    """Clip the gradients to a total norm of ``clip_norm`` and step, unless loss or norm is not finite.

    Returns a scalar tensor, 1 where the step was called off, else 0. The decision is taken on the device: reading it here would
    make every step wait. ``found_inf`` is how torch.amp.GradScaler tells a fused optimiser the same thing.
    """
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
    found_inf = bad.to(torch.float32)
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]
    optimizer.step()
    return found_inf
