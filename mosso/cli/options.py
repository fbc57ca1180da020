"""Options that several verbs share; a flag means the same everywhere."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

DEFAULT_MODEL = "mosso-xtb-s"
_JSON = "mosso.json"  # key in the context's shared notes


def _note_json(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[_JSON] = value  # the error handler stands outside the verb and asks here
    return value


def wants_json(ctx: Any) -> bool:
    """Whether the verb that ran was given ``--json``."""
    return bool(ctx.meta.get(_JSON, False))


Model = Annotated[str, typer.Option("--model", "-m", help="A named model (see `mosso models`) or a model file.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute; auto takes a GPU where there is one.")]
PrecisionName = Annotated[
    str, typer.Option("--precision", help="Named precision policy: fp64 or fp32; on a GPU also tf32, bf16, fp16, less exact.")
]
Head = Annotated[str | None, typer.Option("--head", help="Readout head; needed only when the model has several.")]
Progress = Annotated[bool, typer.Option("--progress/--no-progress", help="Progress on stderr; never when it is not a terminal.")]
Json = Annotated[bool, typer.Option("--json", is_eager=True, callback=_note_json, help="One JSON document on stdout, nothing else.")]
Structures = Annotated[Path, typer.Argument(metavar="STRUCTURES", help="One or many structures: extxyz, or any file ASE reads.")]
