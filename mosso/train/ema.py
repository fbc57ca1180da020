"""Exponential moving average of parameters: smoother and usually better than the last iterate."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """shadow <- d shadow + (1 - d) parameter after every step, with d = min(decay, (1 + n) / (10 + n)) at update n = 1, 2, ...

    The ramp lets early averages forget the random start quickly.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.parameters = list(model.parameters())
        self.decay, self.num_updates = decay, 0
        self.shadow = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters of this step in."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model computes with the averages; afterwards its own parameters are back, bit by bit."""
        own = [p.detach().clone() for p in self.parameters]
        self._copy(self.shadow)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, object]:
        return {"num_updates": self.num_updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, object]) -> None:
        shadow, num_updates = state["shadow"], state["num_updates"]
        assert isinstance(shadow, list) and isinstance(num_updates, int) and len(shadow) == len(self.shadow)
        for mine, saved in zip(self.shadow, shadow, strict=True):
            mine.copy_(saved)
        self.num_updates = num_updates
