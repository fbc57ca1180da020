"""``mosso report``: rows of the benchmark as a page or as Markdown."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mosso.cli import options
from mosso.cli.output import check_out, note, plural, print_json

ENDINGS = {"html": (".html", ".htm"), "markdown": (".md",), "readme": (".md",)}


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="RESULTS...", help="Rows of `mosso bench` (.jsonl), and what `mosso profile` wrote (.json).")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page (.html) or table (.md); an existing one is replaced.")] = None,
    format: Annotated[
        Literal["html", "markdown", "readme"] | None,
        typer.Option("--format", help="What to make; readme is one short table in Markdown.", show_default="as --out ends"),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """One self-contained page of what was measured; or a Markdown table, printed where no --out is given.

    Several files of rows are told apart by name and compared on the page.
    """
    kind = format or ("markdown" if out is not None and out.suffix == ".md" else "html")
    if out is not None:
        check_out(out, ENDINGS[kind])
    elif kind == "html" or as_json:
        raise ValueError("Say where to write it: --out report.html, or --out table.md; --format markdown or readme alone prints the table.")

    from mosso.bench.page.build import html
    from mosso.bench.page.markdown import short, tables
    from mosso.bench.page.results import read_results
    from mosso.data.atomic import atomic_path

    found = read_results(results)
    text = {"html": html, "markdown": tables, "readme": short}[kind](found)
    if out is None:
        print(text, end="")
        return
    with atomic_path(out) as path:
        path.write_text(text, encoding="utf-8")
    if as_json:
        counts = {label: len(rows) for label, rows in found.sets.items()}
        print_json({"out": out, "rows": len(found.rows), "sets": counts, "profiles": len(found.profiles)})
    else:
        note(f"Wrote {out}: {plural(len(found.rows), 'row')} of {plural(len(found.sets), 'file')}.")
