"""The model file ``.mosso``: one safetensors file whose header carries a manifest, and nothing that executes.

The manifest is JSON under the metadata key ``mosso``. A reader refuses what it cannot honour: another schema,
another architecture, unknown keys, tensors that are missing, extra, or differ from their checksum.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mosso.data.atomic import atomic_path
from mosso.models import ARCHITECTURES
from mosso.version import VERSION
from mosso.weights.checkpoint import Checkpoint

SCHEMA_VERSION = 1
_KEY = "mosso"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class Units(_Strict):
    """Units of everything the model takes and gives."""

    energy: Literal["eV"] = "eV"
    length: Literal["Angstrom"] = "Angstrom"


class Provenance(BaseModel):
    """Where the weights come from; further keys are kept, as they change nothing the model computes."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    source: str
    sha256: str | None
    licence: str
    citation: str


class TensorEntry(_Strict):
    """What a tensor must be."""

    dtype: str
    shape: list[Annotated[int, Field(ge=0)]]


class Manifest(_Strict):
    """The header of a model file.

    Attributes:
        schema_version: version of this layout.
        mosso_version: version that wrote the file.
        architecture: one of ``mosso.models.ARCHITECTURES``.
        spec: hyperparameters of the architecture, which checks them itself.
        species: atomic numbers, ascending.
        cutoff: Angstrom.
        units: eV and Angstrom.
        heads: names of readout heads, in order.
        precision: number format the weights were trained in, e.g. ``float64``.
        provenance: source, checksum of the source, licence, citation.
        tensors: format and shape of every tensor by name.
        tensors_sha256: checksum over names, formats, shapes and values.
    """

    schema_version: int
    mosso_version: str
    architecture: str
    spec: dict[str, Any]
    species: Annotated[list[Annotated[int, Field(ge=1, le=118)]], Field(min_length=1)]
    cutoff: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    units: Units
    heads: Annotated[list[str], Field(min_length=1)]
    precision: str
    provenance: Provenance
    tensors: dict[str, TensorEntry]
    tensors_sha256: str


def write_artifact(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a model file; an existing one is replaced at once or not at all.

    Raises:
        ValueError: the checkpoint is not plain data, or lacks what a manifest needs.
    """
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in checkpoint.tensors.items()}
    manifest = _manifest_of(checkpoint, tensors, str(path))
    text = json.dumps(manifest.model_dump(), sort_keys=True, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={_KEY: text}))  # save_file makes files only their owner can read


def manifest_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The manifest a model file of this checkpoint has, as JSON types.

    Raises:
        ValueError: as ``write_artifact``.
    """
    return _manifest_of(checkpoint, checkpoint.tensors, checkpoint.architecture).model_dump()


def read_manifest(path: str | Path) -> Manifest:
    """The manifest alone, without loading tensors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not a model file, damaged, from a newer version, or not understood.
    """
    with _opened(Path(path)) as file:
        return _manifest(Path(path), file)


def read_artifact(path: str | Path) -> Checkpoint:
    """The checkpoint in a model file, tensors bit for bit on the CPU.

    Raises:
        ValueError: as ``read_manifest``, and when tensors are not those the manifest lists.
    """
    path = Path(path)
    with _opened(path) as file:
        manifest = _manifest(path, file)
        tensors = {name: file.get_tensor(name) for name in manifest.tensors}
    if _entries(tensors) != manifest.tensors:
        wrong = sorted(name for name, entry in _entries(tensors).items() if entry != manifest.tensors[name])
        raise ValueError(f"{path}: tensors {', '.join(wrong[:3])} do not have the shape or format the manifest says; {_AGAIN}.")
    if tensors_sha256(tensors) != manifest.tensors_sha256:
        raise ValueError(f"{path}: the weights do not match their checksum; {_AGAIN}.")
    return Checkpoint(manifest.architecture, manifest.spec, tensors, manifest.provenance.model_dump() | {"dtype": manifest.precision})


def tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """Checksum over names, formats, shapes and values, independent of order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {_dtype(value)} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


_AGAIN = "fetch or convert the file again"


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _entries(tensors: dict[str, Tensor]) -> dict[str, TensorEntry]:
    return {name: TensorEntry(dtype=_dtype(value), shape=list(value.shape)) for name, value in tensors.items()}


def _manifest_of(checkpoint: Checkpoint, tensors: dict[str, Tensor], path: str) -> Manifest:
    try:
        spec = json.loads(json.dumps(checkpoint.spec, allow_nan=False))
        provenance = json.loads(json.dumps(checkpoint.provenance, allow_nan=False))
        document = {
            "schema_version": SCHEMA_VERSION,
            "mosso_version": VERSION,
            "architecture": checkpoint.architecture,
            "spec": spec,
            "species": spec["species"],
            "cutoff": spec["r_max"],
            "units": {},
            "heads": spec["heads"],
            "precision": provenance["dtype"],
            "provenance": {key: value for key, value in provenance.items() if key != "dtype"},
            "tensors": {name: entry.model_dump() for name, entry in _entries(tensors).items()},
            "tensors_sha256": tensors_sha256(tensors),
        }
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: the model's spec or provenance is not plain data ({error}); use JSON types only.") from error
    except KeyError as error:
        raise ValueError(f"{path}: the model's spec or provenance lacks {error}, which a model file states; add it.") from error
    return _validated(path, document)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The safetensors file; its header and length are checked by the library on opening."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; check the path.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a whole mosso model file ({error}); {_AGAIN}.") from error


def _manifest(path: Path, file: Any) -> Manifest:
    text = (file.metadata() or {}).get(_KEY)
    if text is None:
        raise ValueError(f"{path}: a safetensors file without a mosso manifest; make a model file with `mosso convert`.")
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: the manifest is not JSON ({error}); {_AGAIN}.") from error
    manifest = _validated(path, document)
    present, listed = set(file.keys()), set(manifest.tensors)
    if present != listed:
        kind, names = ("missing", listed - present) if listed - present else ("unexpected", present - listed)
        raise ValueError(f"{path}: {kind} tensors {', '.join(sorted(names)[:3])} ({len(names)} in all); {_AGAIN}.")
    return manifest


def _validated(path: Path | str, document: Any) -> Manifest:
    """The document as a Manifest; every refusal is one sentence with the place and the remedy."""
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(f"{path}: written in schema {version}, this mosso {VERSION} reads {SCHEMA_VERSION}; update mosso.")
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path}: the manifest has no schema this mosso knows ({version!r}); {_AGAIN}.")
    if document.get("architecture") not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"{path}: unknown architecture {document.get('architecture')!r}; this mosso has {known}: update mosso.")
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: the manifest's {place} cannot be honoured ({first['msg']}); update mosso or convert again.") from error
    stated = {"species": manifest.species, "r_max": manifest.cutoff, "heads": manifest.heads}
    for key, value in stated.items():
        if manifest.spec.get(key) != value:
            raise ValueError(f"{path}: manifest and spec disagree on {key}; {_AGAIN}.")
    if manifest.species != sorted(set(manifest.species)):
        raise ValueError(f"{path}: species {manifest.species} are not ascending; {_AGAIN}.")
    return manifest
