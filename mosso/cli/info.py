"""``mosso info``: what a model is and where it comes from."""

from math import prod
from pathlib import Path
from typing import Annotated, Any

import typer

from mosso.cli import options
from mosso.cli.loading import fetch
from mosso.cli.output import print_json, print_pairs


def info(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A named model (see `mosso models`) or a model file.")],
    progress: options.Progress = True,
    as_json: options.Json = False,
) -> None:
    """Architecture, cutoff, species, units and provenance of one model."""
    fetch(model, progress=progress)
    manifest = manifest_for(model)
    name = Path(model).stem if Path(model).suffix else model
    if as_json:
        print_json({"name": name, "num_parameters": num_parameters(manifest)} | manifest)
    else:
        show(name, manifest)


def manifest_for(model: str) -> dict[str, Any]:
    """The manifest of a named model (fetched when it is not here), a model file, or an upstream checkpoint."""
    from mosso.engine.artifact import manifest_of
    from mosso.engine.potential import read_checkpoint

    return manifest_of(read_checkpoint(model))


def num_parameters(manifest: dict[str, Any]) -> int:
    """Stored numbers of all weights; tables of coupling coefficients are not weights."""
    return sum(prod(entry["shape"]) for name, entry in manifest["tensors"].items() if "U_matrix" not in name)


def show(name: str, manifest: dict[str, Any]) -> None:
    """A manifest for people."""
    from mosso.models.base import name_elements

    provenance, units = manifest["provenance"], manifest["units"]
    elements = name_elements(manifest["species"])
    pairs = [
        ("architecture", manifest["architecture"]),
        ("parameters", f"{num_parameters(manifest):,} ({manifest['precision']})"),
        ("cutoff", f"{manifest['cutoff']:g} A"),
        ("elements", f"{len(manifest['species'])}: {elements}"),
        ("heads", ", ".join(manifest["heads"])),
        ("units", f"{units['energy']}, {units['length']}"),
        *((key, str(value)) for key, value in provenance.items() if value not in (None, "")),
        *((key, _short(value)) for key, value in manifest["spec"].items() if key not in ("species", "r_max", "heads")),
    ]
    print_pairs(name, pairs)


def _short(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
