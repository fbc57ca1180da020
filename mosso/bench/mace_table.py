"""MACE against mace-torch on one GPU, all in one run: correctness first, then times, memory, the largest box and dynamics.

``python -m mosso.bench.mace_table -o results.jsonl --peer-path FOLDERS`` measures and prints; rows are appended to the file as they
come. ``--show results.jsonl`` prints a file without measuring. ``--profile Cu64,W3000`` prints kernels instead, ``--limits W3000``
what each op must take at least.

Both sides load the same weights and get the same atoms and edges; atoms move before every call. The truth is float64 reference ops
on the same device.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mosso.bench import dynamics_rate, largest, limits, measure, report
from mosso.bench.cases import MODELS, SYSTEMS, TABLE
from mosso.bench.peer_runs import Peer
from mosso.bench.problems import Answer, Problem, batch_and_graph
from mosso.bench.profile.anatomy import anatomy
from mosso.bench.profile.subject import Subject
from mosso.bench.profile.tables import tables
from mosso.bench.random_weights import checkpoint_of
from mosso.bench.steps import RowFile, reason, rows_of_problem
from mosso.bench.variants import VARIANTS, tabulated
from mosso.engine.potential import Potential, find_device
from mosso.kernels import dispatch
from mosso.precision import POLICIES

PARTS = ("ours", "peers", "largest", "md")
MD_SYSTEM, MD_STEPS = "W648", 2000
CELL, LARGEST_VARIANT = "W1536", "tabulated"


class Run:
    """One model on one device: its weights, its problems and where rows go."""

    def __init__(self, model: str, options: argparse.Namespace, folder: Path, file: RowFile) -> None:
        self.model, self.options, self.folder, self.file = model, options, folder, file
        self.device = find_device(options.device)
        self.peer = Peer(options.peer_python, options.peer_path) if "peers" in options.parts else None
        self.weights = self._weights_of_peer()
        self.checkpoint = checkpoint_of(model, self.weights)
        self.systems = [name for name in TABLE[model] if options.systems is None or name in options.systems]
        self.truths: dict[str, Answer] = {}

    def _weights_of_peer(self) -> Path | None:
        """The file both sides load; without it we go on alone and say so."""
        if self.peer is None:
            return None
        path = self.folder / f"{self.model}.model"
        try:
            self.peer.write_weights(self.model, path)
        except (OSError, subprocess.CalledProcessError) as error:
            self.file.write({"kind": "failure", "side": "mace-torch", "name": "weights", "model": self.model, "error": str(error)[-200:]})
            self.peer = None
            return None
        return path

    def potential(self, precision: str) -> Potential:
        return Potential(self.checkpoint, device=self.device, precision=POLICIES[precision])

    def steps(self) -> None:
        """Truth, inputs of the peer, and our rows."""
        exact = self.potential("fp64")
        policies = [self.potential(name) for name in self.options.precisions]
        for system in self.systems:
            problem = Problem(system, exact)
            self.truths[system] = problem.truth
            problem.save(self.folder / f"{system}.npz")
            for potential in policies:
                if "ours" in self.options.parts:
                    for row in rows_of_problem(problem, potential, self.options.variants, self.options.seconds):
                        self.file.write({"model": self.model} | row)

    def peers(self) -> None:
        """The peer's rows."""
        assert self.peer is not None
        assert self.weights is not None
        exact = self.potential("fp64")
        single = [name for name in self.systems if SYSTEMS[name].copies == 1 and SYSTEMS[name].repeats == (1, 1, 1)]
        arguments = ["--systems", ",".join(self.systems), "--backends", ",".join(self.options.backends)]
        arguments += ["--calculator-systems", ",".join(single), "--seconds", str(self.options.seconds)]
        if self.first:
            for part, flag, name in (("md", "--dynamics", MD_SYSTEM), ("largest", "--largest", CELL)):
                if part in self.options.parts:
                    Problem(name, exact).save(self.folder / f"{name}.npz")
                    arguments += [flag, name]
        measure.start_memory(self.device)  # the device is the peer's now
        for row in self.peer.measure(self.model, self.weights, self.folder, arguments, self.truths, self.options.peer_timeout):
            self.file.write(row)

    @property
    def first(self) -> bool:
        """Whether this is the model that dynamics and the largest box are measured with."""
        return self.model == self.options.models[0]

    def dynamics(self) -> None:
        """Our row of dynamics: whole steps captured where the Triton ops run."""
        potential = self.potential("fp32")
        captured = self.device.type == "cuda"
        name, form = ("tabulated, steps captured", tabulated(potential)) if captured else ("stock reference", potential)
        with dispatch.prefer("triton" if captured else "reference"):
            self._try("md", name, lambda: dynamics_rate.steps_per_second(form, MD_SYSTEM, MD_STEPS))

    def largest(self) -> None:
        """Our largest box; at that size recording a graph gains nothing."""

        def found() -> dict[str, Any]:
            runner = self.runner(LARGEST_VARIANT)
            return largest.search(lambda box: largest.evaluate_box(runner, box)) or {"error": "nothing fits"}

        self._try("largest", LARGEST_VARIANT, found)

    def runner(self, variant: str) -> Any:
        return VARIANTS[variant](self.potential("fp32"))

    def _try(self, kind: str, name: str, make: Callable[[], dict[str, Any]]) -> None:
        common = {"kind": kind, "side": "mosso", "name": name, "model": self.model, "precision": "fp32"}
        try:
            self.file.write(common | make())
        except Exception as error:  # a part that fails takes no other down
            self.file.write(common | {"error": reason(error)})

    def profile(self, systems: list[str]) -> None:
        """Kernels of one evaluation as users get it, and how close its ops come to their limits."""
        for system in systems:
            document = anatomy(Subject.of(self.potential("fp32"), SYSTEMS[system].structures(), stress=False), system)
            for kernel in document["kernels"]:
                self.file.write({"kind": "kernel", "side": "mosso", "model": self.model, "system": system, **kernel})
            print(f"\n{tables(document)}")


def print_limits(model: str, systems: list[str]) -> None:
    """What each op must take at least."""
    potential = Potential(checkpoint_of(model, None), precision="fp32")
    for system in systems:
        size = limits.size_of(tabulated(potential), *batch_and_graph(potential, SYSTEMS[system]))
        print(f"\n{model}, {system}: {size}\n\n{limits.limits_table(MODELS[model], size)}")


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", type=Path, nargs="+", help="print these files and stop")
    parser.add_argument("-o", "--out", type=Path, default=Path("mace_table.jsonl"))
    parser.add_argument("--models", type=names, default=list(TABLE))
    parser.add_argument("--systems", type=names, help="of those in the table")
    parser.add_argument("--variants", type=names, default=list(VARIANTS), help=", ".join(VARIANTS))
    parser.add_argument("--precisions", type=names, default=["fp32"])
    parser.add_argument("--parts", type=names, default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has mace-torch")
    parser.add_argument("--peer-path", default="", help="PYTHONPATH under which an interpreter has mace-torch")
    parser.add_argument("--backends", type=names, default=["e3nn", "cueq"], help="e3nn, cueq, oeq, hybrid; with -compiled or -graphs too")
    parser.add_argument("--peer-timeout", type=float, default=300.0, help="seconds per model")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--profile", type=names, help="systems whose kernels are listed, instead of the table")
    parser.add_argument("--limits", type=names, help="systems whose least times are listed, instead of the table")
    options = parser.parse_args(arguments)
    for given, known in (
        (options.models, TABLE),
        (options.variants, VARIANTS),
        (options.parts, PARTS),
        (options.precisions, POLICIES),
    ):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown {', '.join(unknown)}: choose from {', '.join(known)}")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.show:
        print(report.show([json.loads(line) for path in options.show for line in path.read_text().splitlines()]))
        return
    if options.limits:
        for model in options.models:
            print_limits(model, options.limits)
        return
    file = RowFile(options.out, measure.environment(find_device(options.device)))
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            run = Run(model, options, Path(folder), file)
            if options.profile:
                run.profile(options.profile)
                continue
            run.steps()
            if "md" in options.parts and run.first:
                run.dynamics()
            if "largest" in options.parts and run.first:
                run.largest()
            if run.peer:
                run.peers()
    if not options.profile:
        print("\n" + report.show([json.loads(line) for line in options.out.read_text().splitlines()]))


if __name__ == "__main__":
    main()
