"""``mosso relax``: structures to their nearest minimum."""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosso.cli import options
from mosso.cli.errors import EXIT_INTERRUPTED
from mosso.cli.interrupt import Interruptible
from mosso.cli.loading import load_potential
from mosso.cli.output import Bar, check_out, keeping, note, plural, print_json, print_pairs, print_table

if TYPE_CHECKING:
    from mosso.data.structure import Structure
    from mosso.dynamics.relax import RelaxResult, RelaxRow
    from mosso.engine.potential import Potential

Relaxed = tuple[dict[str, Any], "Structure"]  # a row of the table and what it is about

_ROWS_SHOWN = 20


def relax(
    structures: options.Structures,
    out: Annotated[Path, typer.Option("--out", "-o", help="Write the relaxed structures here (.extxyz).")],
    model: options.Model = options.DEFAULT_MODEL,
    fmax: Annotated[float, typer.Option(help="Stop when the largest force on an atom is below this (eV/A).")] = 0.01,
    steps: Annotated[int, typer.Option(help="Give up after so many steps.")] = 500,
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cells as well.")] = False,
    pressure: Annotated[float, typer.Option(help="External pressure (bar); with --cell.")] = 0.0,
    device: options.Device = "auto",
    precision: options.PrecisionName = "fp64",
    head: options.Head = None,
    progress: options.Progress = True,
    as_json: options.Json = False,
) -> None:
    """Relax structures, many at once.

    Computes in fp64 unless told otherwise. An existing output file is replaced, at the end and as a whole. The exit code is 0
    even when some structures did not converge; the table says which. Ctrl-C leaves the structures as far as they have come in
    partial-OUT beside OUT, and the same table; so does an error, for the structures before it.
    """
    from mosso.data.readers import read_structures
    from mosso.data.writers import FORMATS, write_frames
    from mosso.dynamics.relax import RelaxInterrupted
    from mosso.engine.batching import in_batches

    check_out(out, tuple(FORMATS))
    frames = read_structures(structures)
    pot = load_potential(model, device, precision, head, progress=progress)
    started = perf_counter()
    relaxed: list[Relaxed] = []
    completed = True

    def structures_relaxed() -> list["Structure"]:
        return [structure for _, structure in relaxed]

    try:
        with Interruptible(), keeping(out, structures_relaxed), Bar("Relaxing", total=len(frames), wanted=progress) as bar:

            def work(batch: list["Structure"]) -> list[Relaxed]:
                return relax_batch(pot, batch, len(relaxed), bar, fmax=fmax, steps=steps, cell=cell, pressure=pressure)

            try:
                for results in in_batches(pot, frames, work):
                    relaxed += results
            except RelaxInterrupted as interrupt:
                relaxed += with_rows(interrupt.result)
                raise
    except KeyboardInterrupt:
        completed = False
    else:
        write_frames(out, structures_relaxed())
    seconds = perf_counter() - started
    rows = [row for row, _ in relaxed]
    if as_json:
        print_json(document(pot, rows, seconds, completed, out))
    elif rows:
        show(pot, rows, seconds)
    if not completed:
        note(what_there_is(rows, len(frames)))
        raise typer.Exit(EXIT_INTERRUPTED)
    if not as_json:
        note(f"Wrote {out}.")


def relax_batch(pot: "Potential", structures: list["Structure"], before: int, bar: Bar, **options: Any) -> list[Relaxed]:
    """For each structure of one batch, its row of the table and itself relaxed; ``before`` structures came earlier."""
    from mosso.dynamics.relax import relax as relax_together

    def on_step(row: "RelaxRow") -> None:
        bar.move_to(before + int(row.converged.sum()), f"step {row.step}, largest force {row.max_forces.max():.3f} eV/A")

    result = relax_together(pot, structures, on_step=on_step, **options)
    bar.move_to(before + len(structures))
    return with_rows(result)


def with_rows(result: "RelaxResult") -> list[Relaxed]:
    """Each structure with its row."""
    rows = [
        {
            "num_atoms": len(structure),
            "converged": bool(result.converged[b]),
            "steps": int(result.num_steps[b]),
            "energy_start": float(result.energies_start[b]),
            "energy": float(result.energies[b]),
            "max_force": float(result.max_forces[b]),
            "volume": structure.volume or None,
        }
        for b, structure in enumerate(result.structures)
    ]
    return list(zip(rows, result.structures, strict=True))


def what_there_is(rows: list[dict[str, Any]], num_structures: int) -> str:
    """What an interrupt leaves."""
    if not rows:
        return "Interrupted before the first step; nothing was written."
    done = sum(row["converged"] for row in rows)
    return f"Interrupted; of {plural(num_structures, 'structure')} {done} had converged, and {num_structures - len(rows)} had not begun."


def document(pot: "Potential", rows: list[dict[str, Any]], seconds: float, completed: bool, out: Path) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "model": pot.name, "precision": pot.precision.name, "device": str(pot.device), "head": pot.head, "out": out if completed else None,
        "seconds": seconds, "completed": completed,
        "num_structures": len(rows), "num_converged": sum(row["converged"] for row in rows), "structures": rows,
    }  # fmt: skip


def show(pot: "Potential", rows: list[dict[str, Any]], seconds: float) -> None:
    """The same for people; a long list is cut."""
    done = sum(row["converged"] for row in rows)
    title = f"{pot.name}, {pot.precision.name} on {pot.device}: {done} of {len(rows)} converged in {seconds:.1f} s"
    # those that failed are what a long table is read for
    listed = list(enumerate(rows)) if len(rows) <= _ROWS_SHOWN else [(i, row) for i, row in enumerate(rows) if not row["converged"]]
    if not listed:
        most = max(row["steps"] for row in rows)
        print_pairs(title, [("steps", f"{most} at most"), ("largest force", f"{max(row['max_force'] for row in rows):.4f} eV/A")])
        return
    columns = ("frame", "atoms", "converged", "steps", "energy (eV)", "change (eV)", "force (eV/A)")
    cells = [
        (str(i), str(row["num_atoms"]), "yes" if row["converged"] else "NO", str(row["steps"]), f"{row['energy']:.6f}",
         f"{row['energy'] - row['energy_start']:.6f}", f"{row['max_force']:.4f}")
        for i, row in listed[:_ROWS_SHOWN]
    ]  # fmt: skip
    print_table(title, columns, cells, numeric=7)
    if len(listed) > _ROWS_SHOWN:
        note(f"... and {len(listed) - _ROWS_SHOWN} more that did not converge; --json lists all.")
