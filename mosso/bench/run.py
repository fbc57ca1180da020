"""``mosso bench`` behind the command line: what was asked for, checked, as a suite whose rows go into a file."""

import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mosso.bench import environments
from mosso.bench.competitor import Workplace
from mosso.bench.environments import Interpreter
from mosso.bench.matrix import Case, Matrix, Protocol, require
from mosso.bench.presets import matrix_with, named, narrowed, read_cases
from mosso.bench.rows import Row, read_rows
from mosso.bench.suite import Suite, own_interpreter
from mosso.engine.potential import find_device

Names = tuple[str, ...]
USERS = ("ase", "torch-sim")  # models of the user's, made by functions beside the file of cases or installed with mosso


@dataclass(frozen=True)
class Options:
    """What the command line says; None leaves a choice to the preset.

    Attributes:
        file: the user's cases, instead of a preset.
        models, systems, batches, tasks, precisions, packages, backends: replace those of the preset.
        peers: interpreters by package. wheels: folder to build environments from. build: whether to build any.
        weights, structures: files by model, and by the name of a system.
        rounds, seconds: replace those of the protocol.
    """

    out: Path
    preset: str | None = None
    file: Path | None = None
    models: Names = ()
    systems: Names = ()
    batches: tuple[int, ...] = ()
    tasks: Names = ()
    precisions: Names = ()
    packages: Names = ()
    backends: Names = ()
    peers: Mapping[str, Path] = field(default_factory=dict)
    wheels: Path | None = None
    build: bool = True
    weights: Mapping[str, Path] = field(default_factory=dict)
    structures: Mapping[str, Path] = field(default_factory=dict)
    device: str = "auto"
    timeout: float = 600.0
    rounds: int | None = None
    seconds: float | None = None
    resume: bool = False


@dataclass(frozen=True)
class Plan:
    """What will be measured.

    Attributes:
        name: of the preset or file.
        done: rows that exist already.
    """

    name: str
    options: Options
    matrix: Matrix
    cases: list[Case]
    protocol: Protocol
    device: str
    done: list[Row]

    def command(self, case: Case) -> str:
        """What to run for one row."""
        options, words = self.options, ["mosso", "bench"]
        words += ["--preset", self.name] if options.file is None else [str(options.file)]
        words += ["--models", case.model, "--precisions", case.precision, "--tasks", case.task]
        if case.task != "largest":
            words += ["--systems", case.system, "--batches", str(case.batch)]
        words += ["--packages", case.package, "--backends", case.backend, "--device", self.device]
        words += ["--rounds", str(self.protocol.rounds), "--seconds", f"{self.protocol.seconds:g}"]
        for flag, files in (("--weights", options.weights), ("--structure", options.structures)):
            words += [word for name, path in files.items() if name in (case.model, case.system) for word in (flag, f"{name}={path}")]
        return shlex.join([*words, "-o", "rows.jsonl"])


def plan(options: Options) -> Plan:
    """What the options ask for.

    Raises:
        ValueError: an unknown name, a malformed file, a device that is not there, rows that would be mixed with others.
        FileNotFoundError: a file that is not there.
    """
    device = find_device(options.device).type
    if options.file is None:
        name, preset = named(options.preset, device == "cuda")
        matrix = matrix_with({}, options.structures)
    else:
        preset, matrix = read_cases(options.file, options.structures)
        name = preset.note
    require("model", tuple(options.weights), matrix.models)
    require("package", tuple(options.peers), matrix.packages)
    axes = ("models", "systems", "batches", "tasks", "precisions", "packages", "backends")
    cases = matrix.expand(narrowed(preset, matrix, **{axis: getattr(options, axis) for axis in axes}))
    if not cases:
        raise ValueError("Nothing is left to measure: the packages, backends and precisions asked for have none of the models.")
    if missing := [path for path in options.weights.values() if not path.is_file()]:
        raise FileNotFoundError(f"There is no file {missing[0]}: check the path given with --weights.")
    if options.out.exists() and not options.resume:
        raise ValueError(f"{options.out} exists: give --resume to go on with it, or another name.")
    done = read_rows([options.out]) if options.out.exists() else []
    replaced = {name: value for name in ("rounds", "seconds") if (value := getattr(options, name)) is not None}
    return Plan(name, options, matrix, cases, preset.protocol.model_copy(update=replaced), device, done)


@contextmanager
def suite_of(plan: Plan, note: Callable[[str], None]) -> Iterator[Suite]:
    """The suite of a plan, with a folder for its files as long as it is open."""
    options = plan.options
    obstacles: dict[str, ValueError] = {}  # building takes minutes: it is tried once

    def interpreter(package: str) -> Interpreter:
        given = options.peers.get(package)
        if package == "mosso" or (package in USERS and given is None):
            return own_interpreter(*([options.file.resolve().parent] if options.file and package in USERS else []))
        if package in obstacles:
            raise obstacles[package]
        try:
            return environments.find_or_build(package, given=given, wheels=options.wheels, build=options.build, say=note)
        except ValueError as error:
            obstacles[package] = error
            raise

    with tempfile.TemporaryDirectory(prefix="mosso-bench-", ignore_cleanup_errors=True) as folder:
        place = Workplace(interpreter, Path(folder), plan.device, options.timeout)
        # Rows with errors are measured again: what was wrong may have been repaired.
        done = {row.key for row in plan.done if row.status != "error"}
        weights = {name: path.resolve() for name, path in options.weights.items()}
        yield Suite(plan.matrix, plan.cases, plan.protocol, place, weights, done, plan.command, note=note)
