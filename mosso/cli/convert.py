"""``mosso convert``: an upstream checkpoint to a mosso model file."""

from pathlib import Path
from typing import Annotated

import typer

from mosso.cli import options
from mosso.cli.info import show
from mosso.cli.output import check_out, note, print_json


def convert(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="An upstream checkpoint, such as a MACE .model file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file to write (.mosso); an existing one is replaced.")],
    as_json: options.Json = False,
) -> None:
    """Bring in a model trained elsewhere; nothing in the file is executed, weights stay bit for bit."""
    from mosso.engine.convert import convert as convert_file

    check_out(out, (".mosso",))
    manifest = convert_file(source, out)
    if as_json:
        print_json({"out": out} | manifest)
    else:
        show(out.stem, manifest)
        note(f"Wrote {out}.")
