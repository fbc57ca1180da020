"""``mosso bench``: the benchmark suite."""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mosso.cli import options
from mosso.cli.errors import EXIT_INTERRUPTED
from mosso.cli.interrupt import Interruptible
from mosso.cli.output import Bar, check_out, note, plural, print_json, print_table

if TYPE_CHECKING:
    from mosso.bench.rows import Row

Names = Annotated[str | None, typer.Option(help="Instead of the preset's, separated by commas.")]
Pairs = list[str] | None


def bench(
    cases: Annotated[Path | None, typer.Argument(metavar="[CASES.yaml]", help="Your own cases, instead of a preset.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="Named cases (see --list); by default those for this machine.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Rows go here, one JSON line each, as they come.")] = Path("results.jsonl"),
    models: Names = None,
    systems: Names = None,
    batches: Names = None,
    tasks: Names = None,
    precisions: Names = None,
    packages: Names = None,
    backends: Names = None,
    peer: Annotated[Pairs, typer.Option(metavar="PACKAGE=PYTHON", help="An interpreter that has a package; again for others.")] = None,
    wheels: Annotated[Path | None, typer.Option(help="Folder of wheels to build environments from, without a network.")] = None,
    build: Annotated[bool, typer.Option("--build/--no-build", help="Whether to build environments of packages that have none.")] = True,
    weights: Annotated[Pairs, typer.Option(metavar="MODEL=FILE", help="Weights that all packages of a model read.")] = None,
    structure: Annotated[Pairs, typer.Option(metavar="NAME=FILE", help="A system of yours; DHFR=FILE for the protein.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --out: rows that are there are kept, those with errors made anew.")
    ] = False,
    device: options.Device = "auto",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a package may take to answer one request.")] = 600.0,
    rounds: Annotated[int | None, typer.Option(min=1, help="Turns of every package.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="What the timed calls of one package may take for one row.")] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List presets, models, systems and packages, and stop.")] = False,
    progress: options.Progress = True,
    as_json: options.Json = False,
) -> None:
    """Measure models, ours and other packages', on the same atoms.

    Every package runs in a process and an environment of its own, all are timed in turns, and no time is given for a configuration
    whose answer is not right. docs/benchmark.md says how it is measured.
    """
    if show_list:
        print_names(as_json)
        return
    from mosso.bench.rows import append_row
    from mosso.bench.run import Options, plan, suite_of

    asked = Options(
        out=check_out(out, (".jsonl",)),
        preset=preset,
        file=cases,
        models=names(models),
        systems=names(systems),
        batches=tuple(map(whole, names(batches))),
        tasks=names(tasks),
        precisions=names(precisions),
        packages=names(packages),
        backends=names(backends),
        peers=pairs(peer, "--peer PACKAGE=PYTHON"),
        wheels=wheels,
        build=build,
        weights=pairs(weights, "--weights MODEL=FILE"),
        structures=pairs(structure, "--structure NAME=FILE"),
        device=device,
        timeout=timeout,
        rounds=rounds,
        seconds=seconds,
        resume=resume,
    )
    planned = plan(asked)
    rows: list[Row] = []
    completed = True
    with (
        Interruptible() as interruptible,
        suite_of(planned, note) as suite,
        Bar("Measuring", total=len(suite.cases), wanted=progress) as bar,
    ):
        suite.say = bar.move_to
        try:
            with closing(suite.rows()) as coming:  # processes end with it
                for row in coming:
                    with interruptible.held():
                        append_row(out, row)
                        rows.append(row)
        except KeyboardInterrupt:
            completed = False
    if as_json:
        print_json({"out": out, "completed": completed, "kept": len(planned.done), "rows": [row.model_dump() for row in rows]})
    else:
        show(rows, out)
    if not completed:
        note(f"Interrupted; {out} holds {plural(len(rows), 'new row')}. Go on with the same command and --resume.")
        raise typer.Exit(EXIT_INTERRUPTED)


def names(text: str | None) -> tuple[str, ...]:
    """Of a list with commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def whole(text: str) -> int:
    """A batch size."""
    if not text.isdigit() or int(text) == 0:
        raise ValueError(f"--batches {text}: give positive whole numbers, separated by commas.")
    return int(text)


def pairs(given: Pairs, form: str) -> dict[str, Path]:
    """Files by name."""
    found = {}
    for text in given or []:
        name, sign, path = text.partition("=")
        if not (name and sign and path):
            raise ValueError(f"{text!r} is not understood: give {form}.")
        found[name] = Path(path).expanduser()
    return found


def show(rows: "list[Row]", out: Path) -> None:
    """Fastest first within a comparison, then what went wrong."""
    from mosso.bench.summary import lines, troubles

    print_table(
        f"{plural(len(rows), 'new row')} in {out}",
        ("model", "system", "task", "precision", "package", "ms", "95 %", "force error", "times the fastest"),
        lines(rows),
        numeric=4,
    )
    if found := troubles(rows):
        print_table("Without a time", ("model", "system", "task", "package", "why"), found)


def print_names(as_json: bool) -> None:
    """What there is to choose from."""
    from mosso.bench.summary import choices

    found = choices()
    if as_json:
        print_json(found)
        return
    for kind, entries in found.items():
        print_table(kind.capitalize(), ("name", "what"), entries.items())
