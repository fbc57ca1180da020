"""From an upstream checkpoint to a mosso model file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mosso.engine.artifact import manifest_of, read_manifest, write_artifact
from mosso.weights import store
from mosso.weights.checkpoint import Checkpoint
from mosso.weights.mace import file_sha256, read_mace

# File name ending -> reader. Every reader leaves the tensors bit for bit as upstream stored them.
READERS = {".model": read_mace, ".pt": read_mace, ".pth": read_mace}


def read_source(path: Path) -> Checkpoint:
    """An upstream checkpoint, read without executing anything in it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the ending or the content is not one mosso reads.
    """
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}.")
    if path.suffix not in READERS:
        raise ValueError(f"Cannot read a model from {path.name!r}: known endings are .mosso, {', '.join(READERS)}.")
    return READERS[path.suffix](path)


def convert(source: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the model file of an upstream checkpoint and return its manifest. Nothing is left behind on failure."""
    target = Path(out)
    if target.suffix != ".mosso":
        raise ValueError(f"A mosso model file ends in .mosso, not {target.suffix or 'nothing'!r}: write -o {target.with_suffix('.mosso')}.")
    checkpoint = read_source(Path(source))
    write_artifact(target, checkpoint)
    return manifest_of(checkpoint)


def cached_artifact(entry: store.NamedModel) -> Path:
    """The model file of a named model: shipped with the package, or fetched, converted once and kept in the cache."""
    source = store.fetch(entry.name)
    if source.suffix == ".mosso":
        return source
    converted = source.with_suffix(".mosso")
    if not converted.exists() or read_manifest(converted).provenance.sha256 != file_sha256(source):
        checkpoint = read_source(source)
        known = {"source": entry.name, "licence": entry.licence, "citation": entry.citation}
        write_artifact(converted, replace(checkpoint, provenance=checkpoint.provenance | known))
    return converted
