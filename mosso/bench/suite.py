"""A run of the matrix: rows as they come, whatever goes wrong with single packages."""

import os
import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mosso.bench import hardware, measure, singles
from mosso.bench.checks import FAITHFUL, Truth, tolerance_of
from mosso.bench.comparison import ENGINE, OF_RANDOM_WEIGHTS, USUAL, Comparison, March, failure
from mosso.bench.competitor import Contestant, Workplace
from mosso.bench.environments import Interpreter
from mosso.bench.matrix import SINGLE, Case, Matrix, Model, Protocol
from mosso.bench.rows import Row
from mosso.bench.systems import water_box
from mosso.bench.truths import REFERENCE, Inputs, Truths
from mosso.bench.workers import WorkerError
from mosso.models.base import name_elements

ROOT = Path(__file__).parents[2]


def own_interpreter(*folders: Path) -> Interpreter:
    """For mosso itself: this interpreter, and the package as it runs here; more folders to import from."""
    paths = [str(ROOT), *map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
    return Interpreter(Path(sys.executable), {"PYTHONPATH": os.pathsep.join(paths)})


@dataclass
class Suite:
    """Cases, and what they need to be measured.

    Attributes:
        matrix: what their names mean.
        cases: rows to make; those whose key is in ``done`` are left out.
        protocol: how times are taken.
        place: where competitors run.
        weights: files that all competitors of a model read, by its name.
        done: keys of rows that exist.
        command: what to run for the row of a case.
        say: told what is being measured, with the number of rows there are by then. note: told what went wrong beside rows.
    """

    matrix: Matrix
    cases: Sequence[Case]
    protocol: Protocol
    place: Workplace
    weights: Mapping[str, Path] = field(default_factory=dict)
    done: Collection[tuple[str, ...]] = ()
    command: Callable[[Case], str] = lambda case: "mosso bench"
    say: Callable[[int, str], None] = lambda count, text: None
    note: Callable[[str], None] = lambda text: None

    def __post_init__(self) -> None:
        self._hardware = hardware.hardware("cuda" if self.place.device == "cuda" else "cpu")
        self._source = {"commit": measure.commit(), "source": measure.source_hash()}
        self._count = 0
        skipped = set(self.done)
        self.cases = [case for case in self.cases if self._key(case) not in skipped]

    def rows(self) -> Generator[Row, None, None]:
        """Every case's row; processes end with the generator."""
        for name, of_model in _grouped(self.cases, lambda case: case.model):
            model = self.matrix.models[name]
            contest = Contest(model, self, of_model)
            for precision, of_precision in _grouped(of_model, lambda case: case.precision):
                try:
                    for _, cases in _grouped(of_precision, lambda case: case.group):
                        self.say(self._count, f"{name}, {cases[0].system} x {cases[0].batch}, {cases[0].task}, {precision}")
                        for row in contest.rows(cases):
                            self._count += 1
                            yield row
                finally:
                    contest.close()

    def row(self, case: Case, contestant: Contestant | None, fields: Mapping[str, Any], started: str) -> Row:
        """The row of a case; ``fields`` hold what was found, before what the contestant says."""
        known: dict[str, Any] = {}
        if contestant is not None and contestant.described:
            known = {name: contestant.loaded.get(name) for name in ("weights_sha256", "parameters", "tf32")}
            known["weights"] = self.weights_of(case.model, contestant)
            if case.task == "startup":  # for other tasks processes import and load side by side
                known |= {"start_s": contestant.start_s, "load_s": contestant.loaded.get("seconds")}
        described = {} if contestant is None else contestant.described
        versions = {name: str(version) for name, version in described.get("versions", {}).items()}
        if described.get("cuda"):
            versions["cuda"] = described["cuda"]
        return Row(
            **{
                **case.model_dump(),
                "architecture": self.matrix.models[case.model].architecture,
                "hardware": self._hardware.model_copy(update={"threads": described.get("threads")}),
                "versions": versions,
                "command": self.command(case),
                "started": started,
                **self._source,
                **known,
                **fields,
            }
        )

    def weights_of(self, model: str, contestant: Contestant) -> str | None:
        """``official``, ``random`` or ``file``, which is only a file of the user's: others were written for this run."""
        kind = contestant.loaded.get("weights")
        return "random" if kind == "file" and model not in self.weights else kind

    def _key(self, case: Case) -> tuple[str, ...]:
        return self.row(case, None, {"status": "ok"}, "").key


class Contest:
    """The competitors of one model: workers, inputs and truths."""

    def __init__(self, model: Model, suite: Suite, cases: Sequence[Case]) -> None:
        self.model, self.suite, self.place = model, suite, suite.place
        self._contestants: dict[tuple[str, str, str], Contestant] = {}
        self._inputs: dict[tuple[str, int], Inputs] = {}
        self._packages = {case.package for case in cases}
        self._shared = suite.weights.get(model.name)
        self._wrote = False
        self._truths: dict[str, Truths] = {}
        for package in self._packages:  # building may take minutes: one after the other, before there are processes
            with suppress(ValueError):  # told where it is asked for
                suite.place.interpreter(package)

    def rows(self, cases: Sequence[Case]) -> Iterator[Row]:
        """Of one group."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._begin(cases)
        contestants = [self._contestant(case) for case in cases]
        for case, contestant, fields in self._measured(cases, contestants):
            yield self.suite.row(case, contestant, fields, started)

    def close(self) -> None:
        """End all processes."""
        self._close_judges()
        for contestant in self._contestants.values():
            contestant.close()
        self._contestants.clear()

    def _measured(
        self, cases: Sequence[Case], contestants: Sequence[Contestant]
    ) -> Iterator[tuple[Case, Contestant | None, dict[str, Any]]]:
        first, inputs = cases[0], self._inputs_of(cases[0])
        if obstacle := self._obstacle(first, inputs):
            for case in cases:
                yield case, None, {"status": "unsupported", "reason": obstacle, "atoms": inputs.num_atoms}
            return
        if first.task == "largest":
            for case, contestant in zip(cases, contestants, strict=True):
                self.close_all_but(contestant)
                yield case, contestant, singles.largest(case, contestant, self._truth_and_nothing_else, self.place.folder)
            return
        truths = [self._truth(case.package, case.precision, inputs, stress=first.task.startswith("stress")) for case in cases]
        if first.task == "startup":
            self.close_all_but(None)
            for case, contestant, truth in zip(cases, contestants, truths, strict=True):
                yield case, contestant, singles.startup(case, contestant, inputs, truth, self.place.folder)
            return
        march = self._march(contestants) if first.task in ENGINE else USUAL
        for entry in Comparison(cases, contestants, inputs, truths, self.suite.protocol, self.place.folder, march).run():
            yield entry.case, entry.contestant, {"atoms": inputs.num_atoms, **entry.fields}

    def _march(self, contestants: Sequence[Contestant]) -> March:
        """Of dynamics, the same for all that are compared."""
        random = any(self.suite.weights_of(self.model.name, contestant) == "random" for contestant in contestants)
        return OF_RANDOM_WEIGHTS if random else USUAL

    def _begin(self, cases: Sequence[Case]) -> None:
        """All processes that the cases need import side by side, load side by side, and are idle in the end; those of ``SINGLE`` tasks
        are on their own."""
        self._share_weights(cases)
        needed = self._needed(cases)  # where there are no weights to share, others judge
        for contestant in needed:
            contestant.begin_to_load()
        for contestant in needed:
            contestant.settle()

    def _needed(self, cases: Sequence[Case]) -> list[Contestant]:
        """Contestants of the cases, and judges of what is not known yet."""
        first, inputs = cases[0], self._inputs_of(cases[0])
        if first.task in SINGLE or self._obstacle(first, inputs):
            return []
        found = [self._contestant(case) for case in cases]
        for case in cases:
            reference = case.precision if tolerance_of(case.package, case.precision) is FAITHFUL else None
            found += self._truths_for(case.package).to_be_asked(inputs, case.task.startswith("stress"), reference)
        return found

    def close_all_but(self, contestant: Contestant | None) -> None:
        """What fits must not depend on what others hold, nor how long a start takes."""
        self._close_judges()
        for other in self._contestants.values():
            if other is not contestant:
                other.close()

    def _close_judges(self) -> None:
        for truths in self._truths.values():
            truths.close()

    def _truths_for(self, package: str) -> Truths:
        """Who has the same weights as ``package`` knows what is right: everybody where they are shared, else the package itself."""
        shared = self._shared is not None
        owner = "everybody" if shared else package
        if owner not in self._truths:
            asked = self._packages | {"mosso"} if shared else {package}
            there = [c for c in self.model.competitors if c.package in asked]
            exact = [REFERENCE] if any(c.package == "mosso" for c in there) else []
            others = [(c.package, backend) for c in there for backend in c.backends]
            self._truths[owner] = Truths(self._make, [*exact, *others], self.place.folder)
        return self._truths[owner]

    def _truth(self, package: str, precision: str, inputs: Inputs, stress: bool) -> Truth | str:
        """What a package has to answer; for a package that is held to its reference ops, beside what those make."""
        truths = self._truths_for(package)
        if tolerance_of(package, precision) is FAITHFUL:
            return truths.beside_reference(inputs, precision, stress)
        return truths.of(inputs, stress)

    def _truth_and_nothing_else(self, inputs: Inputs, case: Case) -> Truth | str:
        """The truth, once the processes that knew it are gone."""
        try:
            return self._truth(case.package, case.precision, inputs, stress=False)
        finally:
            self._close_judges()

    def _obstacle(self, case: Case, inputs: Inputs) -> str | None:
        """Why nobody can do this; None where they can try."""
        unknown = sorted(inputs.elements - (self.model.elements or inputs.elements))
        if unknown:
            return f"the model does not know {name_elements(unknown)}"
        if case.task.startswith("stress") and not inputs.periodic:
            return "there is no stress without a cell"
        if case.task in ("md", "md-ase") and case.batch > 1:
            return "dynamics are measured of one structure"
        if case.task == "largest" and self.place.device == "cpu":
            return "the largest box is that of a GPU"
        return None

    def _inputs_of(self, case: Case) -> Inputs:
        key = (case.system, case.batch)
        if key not in self._inputs:
            name = f"{case.system}-{case.batch}"
            folder = self.place.folder
            if case.task == "largest":  # what elements there are in water
                self._inputs[key] = Inputs.write(name, [water_box((2, 2, 2))], folder)
            else:
                self._inputs[key] = Inputs.of(name, self.suite.matrix.systems[case.system], case.batch, folder)
        return self._inputs[key]

    def _contestant(self, case: Case) -> Contestant:
        key = (case.package, case.backend, case.precision)
        if key not in self._contestants:
            self._contestants[key] = self._make(*key)
        return self._contestants[key]

    def _make(self, package: str, backend: str, precision: str) -> Contestant:
        weights = None if self._shared is None else str(self._shared)
        arguments = {"model": self.model.name, "precision": precision, "weights": weights, **self.model.competitor(package).options}
        return Contestant(package, backend, self.place, arguments)

    def _share_weights(self, cases: Sequence[Case]) -> None:
        """Random weights that all packages read, written by one of them while those who will read them import; each has its own where
        that fails, and rows tell."""
        if self._shared is not None or self._wrote or self.model.weights_from not in self._packages:
            return
        self._wrote = True
        path = self.place.folder / f"{self.model.name}.model"
        competitor = self.model.competitor(self.model.weights_from or "")
        with closing(self._make(competitor.package, competitor.backends[0], "fp64")) as writer:
            self._shared = path
            for contestant in (writer, *self._needed(cases)):
                contestant.start()
            try:
                writer.ask("write_weights", out=str(path))
            except WorkerError as error:
                self.suite.note(f"{self.model.name}: {competitor.package} wrote no weights ({failure(error)['reason']})")
                self._share_nothing()

    def _share_nothing(self) -> None:
        """As if weights had never been expected; nobody has begun to load."""
        self._shared = None
        self._close_judges()
        self._truths.clear()
        for contestant in self._contestants.values():
            contestant.arguments = {**contestant.arguments, "weights": None}


def _grouped(cases: Iterable[Case], key: Callable[[Case], Any]) -> list[tuple[Any, list[Case]]]:
    """Cases by key, in the order in which keys come first."""
    found: dict[Any, list[Case]] = {}
    for case in cases:
        found.setdefault(key(case), []).append(case)
    return list(found.items())
