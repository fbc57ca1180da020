"""``mosso md``: molecular dynamics."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mosso.cli import options
from mosso.cli.errors import EXIT_INTERRUPTED
from mosso.cli.interrupt import Interruptible
from mosso.cli.loading import load_potential
from mosso.cli.output import Bar, check_out, note, print_json, print_pairs
from mosso.cli.recorder import Recorder, paths_of

if TYPE_CHECKING:
    from mosso.data.structure import Structure
    from mosso.dynamics.integrators import Coupling, Ensemble
    from mosso.dynamics.simulate import LogRow


def md(
    structure: Annotated[Path, typer.Argument(metavar="STRUCTURE", help="One structure: extxyz, or any file ASE reads.")],
    model: options.Model = options.DEFAULT_MODEL,
    ensemble: Annotated[
        Literal["nve", "nvt", "npt"], typer.Option(help="nvt: a thermostat; npt: Langevin's and stochastic cell rescaling.")
    ] = "nvt",
    thermostat: Annotated[
        Literal["langevin", "nose-hoover"],
        typer.Option(help="For nvt: friction and noise, or a deterministic chain of thermostats, which disturbs velocities less."),
    ] = "langevin",
    temperature: Annotated[float, typer.Option(help="K; for nve that of the start.")] = 300.0,
    pressure: Annotated[float, typer.Option(help="bar, for npt.")] = 1.01325,
    coupling: Annotated[
        Literal["isotropic", "anisotropic", "diagonal"],
        typer.Option(help="For npt, what moves: the volume, the whole cell, or its lengths along x, y and z."),
    ] = "isotropic",
    timestep: Annotated[float, typer.Option(help="fs.")] = 0.5,
    steps: Annotated[int, typer.Option(min=0, help="Steps in all, those before --resume included.")] = 1000,
    friction: Annotated[float, typer.Option(help="1/fs, of langevin, for nvt and npt.")] = 0.01,
    relaxation_time: Annotated[float, typer.Option(help="fs, for nose-hoover: how fast heat comes and goes.")] = 100.0,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between lines of the log table.")] = 10,
    write_every: Annotated[int, typer.Option(min=1, help="Steps between frames of the trajectory.")] = 100,
    seed: Annotated[int, typer.Option(help="Of velocities and noise; on a CPU the same seed gives the same trajectory bit for bit.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint beside --out.")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Trajectory (.extxyz, .xyz or .traj).")] = Path("traj.extxyz"),
    device: options.Device = "auto",
    precision: options.PrecisionName = "fp32",
    head: options.Head = None,
    progress: options.Progress = True,
    as_json: options.Json = False,
) -> None:
    """Molecular dynamics of one structure.

    Beside the trajectory traj.extxyz come the log table traj.log.csv and the checkpoint traj.checkpoint.npz. Without --resume
    all three are replaced where they exist. Ctrl-C stops between steps with everything in order. Computes in fp32 unless told
    otherwise; energies are summed in fp64.
    """
    from mosso.dynamics.simulate import load_state, require_settings, simulate
    from mosso.dynamics.trajectory import require_steps

    check_out(out, (".extxyz", ".xyz", ".traj"))
    if out.resolve() == structure.resolve():
        raise ValueError(f"The trajectory would replace the structure it starts from: give --out another name than {out}.")
    start = read_one(structure)
    pot = load_potential(model, device, precision, head, progress=progress)
    chosen = make_ensemble(ensemble, thermostat, temperature, pressure, friction, relaxation_time, coupling)
    # Velocities of an NVE run are drawn once, so only its own fields decide how it goes on.
    settings = {
        "model": pot.name, "precision": pot.precision.name, "head": pot.head, "timestep": timestep, "ensemble": repr(chosen),
        "seed": seed, "log_every": log_every, "write_every": write_every,
    }  # fmt: skip
    state = None
    if resume:
        trajectory, table, checkpoint = paths_of(out)
        state = load_state(checkpoint, pot.device)
        require_settings(checkpoint, settings)
        require_steps(trajectory, range(0, int(state.step) + 1, write_every))
        require_steps(table, range(0, int(state.step) + 1, log_every))
    first = None if state is None else int(state.step)
    left = steps - (first or 0)
    completed = True
    with Interruptible() as interruptible, Bar("Simulating", total=steps, wanted=progress) as bar:

        def on_row(row: "LogRow") -> None:
            bar.move_to(row.step, f"{row.time:.3f} ps, {row.temperature[0]:.0f} K, {row.potential_energy[0]:.4f} eV")

        recorder = Recorder(out, interruptible, first, settings, on_row)
        try:
            state = simulate(
                pot,
                start,
                chosen,
                num_steps=max(left, 0),
                timestep=timestep,
                temperature_init=temperature,
                seed=seed,
                log_every=log_every,
                write_every=write_every,
                on_log=recorder.write_row,
                on_frame=recorder.write_frame,
                state=state,
            )
            reached = recorder.save(state)
        except KeyboardInterrupt:
            completed = False
            with interruptible.held():
                reached = recorder.save()
        finally:
            with interruptible.held():
                recorder.close()
    run = {
        "model": pot.name, "precision": pot.precision.name, "device": str(pot.device), "head": pot.head, "num_atoms": len(start),
        "ensemble": ensemble, "timestep": timestep, "steps": steps,
        "first_step": first or 0, "reached_step": reached, "completed": completed,
        **recorder.summary(len(start), timestep), "out": out, "log": recorder.log, "checkpoint": recorder.checkpoint,
    }  # fmt: skip
    print_json(run) if as_json else show(run)
    if not completed:
        note(how_to_go_on(reached))
        raise typer.Exit(EXIT_INTERRUPTED)
    if first is not None and left <= 0 and not as_json:
        note(f"Nothing was left to do: the run is already at step {first}, and --steps {steps} counts from its start.")


def read_one(path: Path) -> "Structure":
    """The only structure of a file."""
    from mosso.data.readers import read_structures

    found = read_structures(path)
    if len(found) != 1:
        raise ValueError(f"{path} holds {len(found)} structures: give a file with the one to simulate.")
    return found[0]


def make_ensemble(
    name: str, thermostat: str, temperature: float, pressure: float, friction: float, relaxation_time: float, coupling: "Coupling"
) -> "Ensemble":
    """The ensemble that the flags name."""
    from mosso.dynamics.integrators import NVE, Langevin, NoseHoover, StochasticCellRescaling

    if thermostat == "nose-hoover":
        if name != "nvt":
            raise ValueError(f"--thermostat nose-hoover goes with --ensemble nvt, not {name}: leave one of the two out.")
        return NoseHoover(temperature, relaxation_time)
    if name == "nve":
        return NVE()
    if name == "nvt":
        return Langevin(temperature, friction)
    return StochasticCellRescaling(temperature, pressure, friction, coupling=coupling)


def how_to_go_on(reached: int | None) -> str:
    """What to do after an interrupt."""
    if reached is None:
        return "Interrupted before the first step; nothing was written."
    command = shlex.join(["mosso", *sys.argv[1:]] + ([] if "--resume" in sys.argv else ["--resume"]))
    return f"Interrupted; the checkpoint holds step {reached}. Go on with: {command}"


def show(run: dict[str, Any]) -> None:
    """The final table."""

    def number(name: str, unit: str, digits: int) -> str:
        return "-" if run[name] is None else f"{run[name]:.{digits}f} {unit}"

    spread = "" if run["temperature"] is None else f" +- {run['temperature_std']:.1f} K"
    print_pairs(
        f"{run['model']}, {run['precision']} on {run['device']}: {run['num_atoms']} atoms, {run['ensemble']}, "
        f"steps {run['first_step']} to {run['reached_step']} of {run['timestep']:g} fs",
        [
            ("temperature", number("temperature", "", 1).rstrip() + spread),
            ("energy drift", number("drift", "meV/atom/ps", 4)),
            ("pressure", number("pressure", "bar", 0)),
            ("density", number("density", "g/cm3", 4)),
            ("speed", f"{number('steps_per_second', 'steps/s', 2)}, {number('ns_per_day', 'ns/day', 4)}"),
            ("trajectory", str(run["out"])),
            ("log table", str(run["log"])),
            ("checkpoint", str(run["checkpoint"])),
        ],
    )
