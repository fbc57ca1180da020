"""The tensors of a state: of a dataclass and of the dataclasses in it, by path."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


def leaves(value: Any, path: str = "") -> dict[str, Tensor]:
    """Tensors by path, such as ``state.batch.positions_N3``."""
    if isinstance(value, Tensor):
        return {path: value}
    if not is_dataclass(value):
        return {}
    return {
        key: leaf for f in fields(value) for key, leaf in leaves(getattr(value, f.name), f"{path}.{f.name}" if path else f.name).items()
    }


def rebuilt(value: T, tensors: Mapping[str, Tensor], path: str = "") -> T:
    """``value`` with the tensors found under the paths that ``leaves`` gives its own."""
    if isinstance(value, Tensor):
        return tensors[path]  # type: ignore[return-value]
    if not is_dataclass(value):
        return value
    parts = {f.name: rebuilt(getattr(value, f.name), tensors, f"{path}.{f.name}" if path else f.name) for f in fields(value)}
    return replace(value, **parts)  # type: ignore[type-var]


def mapped(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """``value`` with every tensor changed."""
    return rebuilt(value, {path: change(leaf) for path, leaf in leaves(value).items()})
