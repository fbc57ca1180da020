"""Restricted reader of ``torch.save`` files: it rebuilds tensors and plain data and executes nothing.

Every class or function a file names becomes an inert ``Stub`` type that only records what the pickle does
with it; the few pure constructors of ``_CONSTRUCTORS`` are written out here. Tensors become ``StoredTensor``
records (``.tensor()`` gives the torch tensor), because a pickle may call ``__setstate__`` on whatever a
constructor returns, and records refuse that.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mosso.weights.torch_zip import TorchFileError, TorchZip

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
_OVERLAP_LIMIT = 1 << 24  # elements; an expanded tensor (stride 0) may claim far more than its storage holds
_MODULE_LIMIT = 100_000  # a shared child reached along exponentially many paths is a bomb, not a model
_DEPTH_LIMIT = 200


class Stub:
    """Inert record of an object from a pickle.

    Attributes:
        class_name: dotted name of what the pickle asked for, e.g. ``e3nn.o3._irreps.Irreps``.
        args: positional arguments it was built with.
        state: its attributes, as ``__setstate__`` would have got them; under the key ``None`` when not a dict.
        contents: list items or (key, value) pairs appended to it.
    """

    class_name = "?"
    args: tuple[Any, ...]
    state: dict[Any, Any]
    contents: list[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> "Stub":
        self = object.__new__(cls)
        self.args = args
        self.state = dict(kwargs)
        self.contents = []
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Accepts anything; __new__ has recorded it."""

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        for part in parts:  # (attributes, slots) or attributes alone
            if isinstance(part, Mapping):
                self.state.update(part)
            elif part is not None:
                self.state[None] = part

    def __call__(self, *args: Any, **kwargs: Any) -> "Stub":
        """What the pickle would have called is recorded, not called."""
        result = Stub(self, *args, **kwargs)
        result.class_name = f"{self.class_name}()"
        return result

    def append(self, item: Any) -> None:
        self.contents.append(item)

    def extend(self, items: Any) -> None:
        self.contents.extend(items)

    def add(self, item: Any) -> None:
        self.contents.append(item)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.contents.append((key, value))

    def __repr__(self) -> str:
        return f"<stub of {self.class_name}>"

    @property
    def kind(self) -> str:
        """The class name without its module."""
        return self.class_name.rpartition(".")[2]

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, parameter, buffer or submodule by name, as torch.nn.Module looks it up."""
        if name in self.state:
            return self.state[name]
        for group in ("_parameters", "_buffers", "_modules"):
            members = self.state.get(group)
            if isinstance(members, Mapping) and name in members:
                return members[name]
        return default

    @property
    def modules(self) -> dict[str, Any]:
        """Submodules by name."""
        members = self.state.get("_modules")
        return dict(members) if isinstance(members, Mapping) else {}


class StoredTensor:
    """A tensor as the file describes it: a strided view of one storage, checked against its bounds."""

    __slots__ = ("offset", "requires_grad", "shape", "storage", "stride")

    def __init__(self, storage: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], requires_grad: bool) -> None:
        numbers = (offset, *shape, *stride)
        if len(shape) != len(stride) or not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
            raise ValueError(f"tensor of shape {shape}, strides {stride}, offset {offset} is malformed")
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if prod(shape) > 0 and last >= storage.numel():
            raise ValueError(f"tensor of shape {shape} reaches element {last} of a storage of {storage.numel()}")
        if prod(shape) > max(storage.numel(), _OVERLAP_LIMIT):
            raise ValueError(f"tensor of shape {shape} claims more elements than the {storage.numel()} of its storage")
        self.storage, self.offset, self.shape, self.stride = storage, offset, shape, stride
        self.requires_grad = bool(requires_grad)

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def tensor(self) -> Tensor:
        """The tensor itself: contiguous, on the CPU, memory of its own, the same bits."""
        if prod(self.shape) == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.as_strided(self.storage, self.shape, self.stride, self.offset).clone(memory_format=torch.contiguous_format)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("the pickle tries to change a tensor after building it")

    def __repr__(self) -> str:
        return f"<stored tensor {tuple(self.shape)} {self.dtype}>"


class _Storage:
    """A storage on the unpickler's stack; wrapped so that a pickle cannot reach the tensor's own methods."""

    __slots__ = ("values",)

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        raise ValueError("the pickle tries to change a storage")


class Ordered(OrderedDict[Any, Any]):
    """OrderedDict whose extra attributes (torch puts ``_metadata`` on state dicts) are dropped."""

    def __setstate__(self, state: Any) -> None:
        """Nothing to keep."""


class _Constructor:
    """A pure function a pickle may call; wrapped so that a pickle cannot change the function itself."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("the pickle tries to change a function")


def _rebuild_tensor(storage: Any, offset: int, shape: Any, stride: Any, requires_grad: bool = False, *_hooks: Any) -> StoredTensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor is built from something that is not a storage")
    return StoredTensor(storage.values, offset, tuple(shape), tuple(stride), requires_grad)


def _rebuild_tensor_v3(
    storage: Any, offset: int, shape: Any, stride: Any, requires_grad: bool, hooks: Any, dtype: Any, *_: Any
) -> StoredTensor:
    """torch's form for dtypes without a storage class of their own: bytes plus a dtype."""
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype) or storage.values.numel() % dtype.itemsize:
        raise ValueError("a tensor is built from something that is not a storage of its dtype")
    return _rebuild_tensor(_Storage(storage.values.view(dtype)), offset, shape, stride, requires_grad)


def _rebuild_parameter(data: Any, requires_grad: bool = True, *_rest: Any) -> StoredTensor:
    if not isinstance(data, StoredTensor):
        raise ValueError("a parameter is built from something that is not a tensor")
    return StoredTensor(data.storage, data.offset, data.shape, data.stride, requires_grad)


def _rebuild_from_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    """A tensor subclass: its values are those of the plain tensor."""
    if not isinstance(function, _Constructor):
        return Stub(function, kind, args, state)
    return function(*args)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Protocol 2 writes bytes as latin-1 text."""
    if encoding != "latin1" or not isinstance(text, str):
        raise ValueError(f"bytes are written in the encoding {encoding!r}, torch writes latin1")
    return text.encode("latin1")


_CONSTRUCTORS: dict[str, Any] = {
    "collections.OrderedDict": _Constructor(Ordered),
    "builtins.set": _Constructor(set),
    "_codecs.encode": _Constructor(_encode),
    "torch.Size": _Constructor(tuple),
    "torch._utils._rebuild_tensor_v2": _Constructor(_rebuild_tensor),
    "torch._utils._rebuild_tensor_v3": _Constructor(_rebuild_tensor_v3),
    "torch._utils._rebuild_parameter": _Constructor(_rebuild_parameter),
    "torch._utils._rebuild_parameter_with_state": _Constructor(_rebuild_parameter),
    "torch._tensor._rebuild_from_type_v2": _Constructor(_rebuild_from_type),
}


class _Reader(pickle.Unpickler):
    """Unpickler that knows no name but the constructors above."""

    def __init__(self, archive: TorchZip) -> None:
        super().__init__(io.BytesIO(archive.pickle_bytes))
        self._archive = archive
        self._stubs: dict[str, type[Stub]] = {}

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        full = f"{module}.{name}"
        if full in _CONSTRUCTORS:
            return _CONSTRUCTORS[full]
        if module == "torch" and isinstance(dtype := vars(torch).get(name), torch.dtype):
            return dtype
        if full not in self._stubs:
            self._stubs[full] = type("Stub", (Stub,), {"class_name": full})
        return self._stubs[full]

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage of the archive; the device it was saved from does not matter."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise ValueError("a persistent object is not a torch storage")
        _, kind, key, _device, count = pid
        name = getattr(kind, "class_name", "").rpartition(".")[2] if isinstance(kind, type) else ""
        if name not in STORAGE_DTYPES or not isinstance(key, str) or type(count) is not int:
            raise ValueError(f"storage {key!r} has the unknown type {name or kind!r}")
        return _Storage(self._archive.storage(key, STORAGE_DTYPES[name], count))


def read_pickle(path: str | Path) -> Any:
    """What ``torch.save`` wrote to ``path``, with inert stubs in place of every class.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a torch file, a TorchScript archive, truncated, damaged or hostile; the message says what to do.
    """
    try:
        with TorchZip(path) as archive:
            return _Reader(archive).load()
    except (TorchFileError, FileNotFoundError):
        raise
    except MemoryError as error:
        raise ValueError(f"{path}: the pickle asks for more memory than there is; fetch the file again from its source.") from error
    except Exception as error:  # the pickle machinery raises nearly every kind on damaged input
        raise ValueError(f"{path}: cannot be read ({error}); fetch or save the file again.") from error


def _walk(module: Any, prefix: str, depth: int) -> Iterator[tuple[str, Stub]]:
    if not isinstance(module, Stub):
        raise ValueError(f"{prefix or 'The object'} is not a torch module ({type(module).__name__}).")
    if depth > _DEPTH_LIMIT:
        raise ValueError("Modules are nested without end: the file is damaged.")
    yield prefix, module
    for name, child in module.modules.items():
        if child is not None:
            yield from _walk(child, f"{prefix}{name}.", depth + 1)


def named_modules(module: Stub) -> Iterator[tuple[str, Stub]]:
    """(name, stub) of a module and everything below it, in torch's order; the module itself is ``""``."""
    for count, (prefix, child) in enumerate(_walk(module, "", 0)):
        if count >= _MODULE_LIMIT:
            raise ValueError(f"More than {_MODULE_LIMIT} modules: the file is damaged.")
        yield prefix.removesuffix("."), child


def state_dict(module: Stub | Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters and persistent buffers under torch's names, bit for bit; a plain dict of tensors is taken as it is."""
    if isinstance(module, Mapping):
        return {str(key): _tensor(key, value) for key, value in module.items()}
    tensors: dict[str, Tensor] = {}
    for prefix, child in named_modules(module):
        transient = child.state.get("_non_persistent_buffers_set", ())
        for group in ("_parameters", "_buffers"):
            members = child.state.get(group) or {}
            for name, value in members.items() if isinstance(members, Mapping) else ():
                if value is None or (group == "_buffers" and name in transient):
                    continue
                key = f"{prefix}.{name}" if prefix else str(name)
                tensors[key] = _tensor(key, value)
    return tensors


def _tensor(key: Any, value: Any) -> Tensor:
    if not isinstance(value, StoredTensor):
        raise ValueError(f"{key} is not a plain tensor ({value!r}).")
    return value.tensor()
