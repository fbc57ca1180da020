"""The table of verbs."""

from typing import Annotated

import typer

from mosso.cli.bench import bench
from mosso.cli.convert import convert
from mosso.cli.errors import Verbs
from mosso.cli.evaluate import evaluate
from mosso.cli.info import info
from mosso.cli.md import md
from mosso.cli.models import models
from mosso.cli.profile import profile
from mosso.cli.relax import relax
from mosso.cli.report import report
from mosso.version import VERSION

app = typer.Typer(
    cls=Verbs,
    help="Run machine-learning interatomic potentials. Units: eV, Angstrom, fs, K, bar.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mosso {VERSION}")
        raise typer.Exit()


Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")]


@app.callback(help=app.info.help)
def root(version: Version = False) -> None:
    """Holds the options that stand before the verb."""


def _paragraphs(docstring: str | None) -> str:
    """Source lines of a paragraph joined, for the terminal to break anew."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (docstring or "").split("\n\n"))


for verb in (models, info, convert, evaluate, relax, md, bench, profile, report):
    app.command(help=_paragraphs(verb.__doc__))(verb)
