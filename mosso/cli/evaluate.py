"""``mosso evaluate``: energy, forces and stress of frames, and errors against their labels."""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mosso.cli import options
from mosso.cli.loading import load_potential
from mosso.cli.output import Bar, check_out, keeping, note, plural, print_json, print_pairs, print_table

if TYPE_CHECKING:
    from mosso.data.structure import Structure
    from mosso.engine.potential import Potential

QUANTITIES = {"energy": "meV/atom", "forces": "meV/A", "stress": "meV/A^3"}


def evaluate(
    structures: options.Structures,
    model: options.Model = options.DEFAULT_MODEL,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write frames with energy, forces and stress here (.extxyz).")] = None,
    device: options.Device = "auto",
    precision: options.PrecisionName = "fp64",
    head: options.Head = None,
    energy_key: Annotated[str | None, typer.Option(help="Name of the energy label in the file.", show_default="energy")] = None,
    forces_key: Annotated[str | None, typer.Option(help="Name of the forces label in the file.", show_default="forces")] = None,
    stress_key: Annotated[str | None, typer.Option(help="Name of the stress label in the file.", show_default="stress")] = None,
    progress: options.Progress = True,
    as_json: options.Json = False,
) -> None:
    """Energy, forces and stress of every frame; errors where the file has labels.

    Computes in fp64 unless told otherwise. An existing output file is replaced, at the end and as a whole. Frames that cannot be
    evaluated are refused before the first one is; should a later one fail, those before it are kept in partial-OUT beside OUT.
    """
    from mosso.data.readers import read_structures
    from mosso.data.writers import FORMATS, write_frames
    from mosso.engine.batching import in_batches

    if out is not None:
        check_out(out, tuple(FORMATS))
    frames = read_structures(structures, energy_key=energy_key, forces_key=forces_key, stress_key=stress_key)
    pot = load_potential(model, device, precision, head, progress=progress)
    started = perf_counter()
    results: list[dict[str, Any]] = []
    with keeping(out, lambda: list(zip(frames, results, strict=False))), Bar("Evaluating", total=len(frames), wanted=progress) as bar:
        for batch_results in in_batches(pot, frames, lambda batch: evaluate_batch(pot, batch)):
            for result in batch_results:
                results.append(finite(result, number=len(results)))
            bar.move_to(len(results))
    seconds = perf_counter() - started
    if out is not None:
        write_frames(out, zip(frames, results, strict=True))

    errors = label_errors(frames, results)
    if as_json:
        print_json(document(pot, frames, results, errors, seconds, out))
    else:
        show(pot, frames, results, errors, seconds)
        if out is not None:
            note(f"Wrote {out}.")


def evaluate_batch(pot: "Potential", frames: list["Structure"]) -> list[dict[str, Any]]:
    """Energy (eV), forces (eV/A) and, where there is a cell, stress (eV/A^3) of each frame."""
    results: list[dict[str, Any]] = []
    for frame, output in zip(frames, pot(frames).split(), strict=True):
        result: dict[str, Any] = {"energy": float(output.energy)}
        result["forces"], result["node_energies"] = output.forces.cpu().numpy(), output.node_energies.cpu().numpy()
        if frame.volume > 0:
            result["stress"] = output.stress.cpu().numpy()
        results.append(result)
    return results


def finite(result: dict[str, Any], number: int) -> dict[str, Any]:
    """The result of frame ``number``, unless it is no answer."""
    import numpy as np

    from mosso.data.structure import BadStructure

    if not (np.isfinite(result["energy"]) and np.isfinite(result["forces"]).all()):
        raise BadStructure(number, "energy or forces are not finite: check it for atoms that overlap.")
    return result


def label_errors(frames: list["Structure"], results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Per quantity that has labels: frames counted, MAE and RMSE in meV units, energies per atom."""
    import numpy as np

    errors = {}
    for name in QUANTITIES:
        residuals = []
        for frame, result in zip(frames, results, strict=True):
            if name in frame.labels and name in result:
                residual = (np.asarray(result[name]) - np.asarray(frame.labels[name])) * 1000
                residuals.append(np.ravel(residual / len(frame) if name == "energy" else residual))
        if residuals:
            every = np.concatenate(residuals)
            errors[name] = {"frames": len(residuals), "mae": np.abs(every).mean(), "rmse": np.sqrt((every**2).mean())}
    return errors


def document(pot: "Potential", frames: list, results: list, errors: dict, seconds: float, out: Path | None) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "model": pot.name, "precision": pot.precision.name, "device": str(pot.device), "head": pot.head, "out": out, "seconds": seconds,
        "num_frames": len(frames), "num_atoms": sum(map(len, frames)),
        "errors": {name: {"unit": QUANTITIES[name], **error} for name, error in errors.items()},
        "energy": [result["energy"] for result in results],
    }  # fmt: skip


def show(pot: "Potential", frames: list, results: list, errors: dict, seconds: float) -> None:
    """The same for people."""
    import numpy as np

    size = f"{plural(len(frames), 'frame')}, {plural(sum(map(len, frames)), 'atom')}"
    title = f"{pot.name}, {pot.precision.name} on {pot.device}: {size} in {seconds:.1f} s"
    if errors:
        rows = [(name, QUANTITIES[name], str(e["frames"]), f"{e['mae']:.2f}", f"{e['rmse']:.2f}") for name, e in errors.items()]
        print_table(title, ("error of", "unit", "frames", "MAE", "RMSE"), rows, numeric=3)
        return
    per_atom = [result["energy"] / max(len(frame), 1) for frame, result in zip(frames, results, strict=True)]
    largest = max(float(np.linalg.norm(result["forces"], axis=1).max(initial=0.0)) for result in results)
    pairs = [
        ("energy (eV)", f"{results[0]['energy']:.6f}" if len(frames) == 1 else f"{min(per_atom):.6f} to {max(per_atom):.6f} per atom"),
        ("largest force (eV/A)", f"{largest:.4f}"),
        ("errors", "the file has no labels; --energy-key, --forces-key and --stress-key name them"),
    ]
    print_pairs(title, pairs)
