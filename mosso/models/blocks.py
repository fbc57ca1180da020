"""What several architectures are made of."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

_TRAINABLE = ("weight", "weights_max")


class StockModule(nn.Module):
    """Weights under their upstream names and in their upstream layout, with folded forms derived on demand.

    ``state_dict`` therefore round-trips to the original checkpoint. In training mode the folded forms are
    recomputed in every forward pass and carry gradients to the stock weights; in evaluation mode they are
    made once and are constants.

    Trainable weights are held in ``dtype``; constants stay in float64, so that nothing is lost on the way to a file.
    """

    def __init__(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
        super().__init__()
        self._folded: Any = None
        for name, tensor in tensors.items():
            _plant(self, name, tensor, dtype)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Submodules are planted from the names in the file, which a static reader cannot see."""

    def fold(self) -> Any:
        """The forms that ``forward`` uses, derived from the stock weights."""
        raise NotImplementedError

    def folded(self) -> Any:
        """The result of ``fold``, remembered in evaluation mode."""
        if self.training:
            return self.fold()
        if self._folded is None:
            with torch.no_grad():
                self._folded = self.fold()
        return self._folded

    def train(self, mode: bool = True) -> Self:
        self._folded = None
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._folded = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._folded = None
        super()._load_from_state_dict(*args, **kwargs)


def _plant(module: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Register ``tensor`` under a dotted name, making the modules on the way."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]  # type: ignore[assignment]
    if tensor.is_floating_point() and (leaf in _TRAINABLE or leaf.isdigit()):
        module.register_parameter(leaf, nn.Parameter(tensor.to(dtype, copy=True)))
    else:
        module.register_buffer(leaf, tensor.to(torch.float64 if tensor.is_floating_point() else tensor.dtype, copy=True))


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def split_linear(flat: Tensor, blocks: list[tuple[int, int]], scales: list[float]) -> list[Tensor]:
    """Per-degree matrices (C_in, C_out) of a flat equivariant linear layer, multiplied by ``scales``."""
    parts = flat.split([rows * columns for rows, columns in blocks])
    return [part.view(shape) * scale for part, shape, scale in zip(parts, blocks, scales, strict=True)]


def split_species_linear(flat: Tensor, num_species: int, channels_in: int, channels_out: int) -> list[Tensor]:
    """Per-degree (S, C_in, C_out) matrices of a fully connected product with one-hot species, normalised."""
    stock = flat.view(-1, channels_in, num_species, channels_out)
    # Contiguous once, or ops would copy the matrices of all species in every call.
    return list((stock / (channels_in * num_species) ** 0.5).transpose(1, 2).contiguous().unbind(0))


def to_channel_major(features_NMC: Tensor, slices: list[slice]) -> Tensor:
    """(N, C * M) in the field's usual layout: degree by degree, channels outside, components inside."""
    return torch.cat([features_NMC[:, part].transpose(1, 2).flatten(1) for part in slices], dim=1)
