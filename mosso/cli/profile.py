"""``mosso profile``: what holds an evaluation up."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mosso.cli import options
from mosso.cli.loading import fetch
from mosso.cli.output import Bar, check_out, note, plural, print_json, print_pairs, print_table


def profile(
    structure: Annotated[
        Path | None, typer.Argument(metavar="[STRUCTURES]", help="A file of structures, evaluated in one call; or --system.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="A system of the benchmark by name, such as Cu64 or W192.")] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A named model, a model file, or a shape of the benchmark with random weights.")
    ] = options.DEFAULT_MODEL,
    device: options.Device = "auto",
    precision: options.PrecisionName = "fp32",
    head: options.Head = None,
    stress: Annotated[bool, typer.Option("--stress", help="Compute stress as well.")] = False,
    limits: Annotated[
        bool, typer.Option("--limits", help="Print what each op must take at least on an H200, counted from shapes, and stop.")
    ] = False,
    calls: Annotated[int, typer.Option("--calls", min=1, help="How many calls are profiled.")] = 5,
    trace: Annotated[Path | None, typer.Option("--trace", help="Leave the trace here for ui.perfetto.dev (.json, .json.gz).")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the result here (.json); `mosso report` reads it.")] = None,
    progress: options.Progress = True,
    as_json: options.Json = False,
) -> None:
    """Which blocks and kernels an evaluation spends its time in, how long the device waits for the host, and what limits it.

    A call is energy and forces with its edges given; the search for neighbours is profiled apart from it.
    """
    from mosso.bench.profile.anatomy import anatomy
    from mosso.bench.profile.subject import Subject, has_file, potential_of, structures_of
    from mosso.data.readers import read_structures
    from mosso.engine.potential import find_device
    from mosso.precision import Precision

    if (structure is None) == (system is None):
        raise ValueError("Name what to evaluate: either a file of structures or --system.")
    for path, suffixes in ((trace, (".json", ".json.gz")), (out, (".json",))):
        if path is not None:
            check_out(path, suffixes)
    structures = read_structures(structure) if structure is not None else structures_of(str(system))
    find_device(device), Precision.named(precision)  # a wrong flag is told before a long download
    if has_file(model):
        fetch(model, progress=progress)
    if limits:
        from mosso.bench.limits import limits_of

        print(limits_of(potential_of(model, device, precision, head), structures))
        return
    with Bar("Profiling", total=4, wanted=progress) as bar:
        subject = Subject.of(potential_of(model, device, precision, head), structures, stress)
        bar.move_to(1)
        name = system or str(structure)
        document = anatomy(subject, name, calls=calls, trace=trace, progress=lambda done: bar.move_to(done + 1))
    if out is not None:
        out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(document)
        return
    show(document)
    for path, use in ((trace, " (open it in ui.perfetto.dev)"), (out, "")):
        if path is not None:
            note(f"Wrote {path}{use}.")


def show(document: dict[str, Any]) -> None:
    """The result for people."""
    from mosso.bench.profile.tables import block_table, kernel_table, op_table

    size = f"{plural(document['atoms'], 'atom')}, {plural(document['edges'], 'edge')}"
    asked = "energy, forces and stress" if document["stress"] else "energy and forces"
    where = document["gpu"] or document["device"]
    name = document["model"] + (" (random weights)" if document["weights"] == "random weights" else "")
    title = f"{name}, {document['precision']} on {where}, {document['system']}: {size}; {asked}"
    if document["eager"]:
        _table(f"{title}; plain calls", *block_table(document | document["eager"]))
        title += "; replays of a recorded CUDA graph"
    _table(title, *block_table(document))
    _table("Ops, forward and backward", *op_table(document))
    _table("Most expensive, per call", *kernel_table(document))
    print_pairs("One call", _pairs(document))


def _table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    print_table(title, header, rows, numeric=len(header) - 1)


def _pairs(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Sums, and what limits the call."""
    from mosso.bench.profile.tables import known

    on_device, eager = document["device"] == "cuda", document["eager"]
    pairs = [("time", f"{known(document['wall_ms'])} ms without the profiler{' (replayed CUDA graph)' if eager else ''}")]
    if eager:
        pairs.append(("plain call", f"{known(eager['wall_ms'])} ms: {eager['verdict']}"))
    if on_device:
        pairs += [
            ("device", f"busy {known(document['busy_ms'])} ms, idle {known(document['gap_ms'])} ms"),
            ("launches", known(document["launches"])),
        ]
    else:
        pairs.append(("under the profiler", f"{known(document['profiled_ms'])} ms, {known(document['busy_ms'])} ms of it in ops of torch"))
    rates = document["rates"]
    said = "measured here by a product and a copy of large matrices" if rates["measured"] else "the limits of the device"
    return [
        *pairs,
        ("search for neighbours", f"{known(document['search_ms'])} ms, not part of the call"),
        (
            "least work",
            f"{known(document['gflops'], ' GFLOP')}, {known(document['gbytes'], ' GB')}, {known(document['least_ms'], ' ms')} at full rate",
        ),
        ("full rate", f"{known(rates['arithmetic'] / 1e9)} GFLOP/s, {known(rates['memory'] / 1e9)} GB/s, {said}"),
        ("share of the limit", "n/a" if document["limit_share"] is None else f"{document['limit_share']:.1%}"),
        ("verdict", document["verdict"]),
        *(("note", text) for text in document["notes"]),
    ]
