"""True answers: float64 by the first competitor that can, made once for every model and system of a run."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mosso.bench.cases import Repeats
from mosso.bench.checks import Answer, Errors, Truth, largest, read_answer
from mosso.bench.competitor import Contestant
from mosso.bench.systems import NamedSystem
from mosso.bench.workers import WorkerError
from mosso.data.structure import Structure

REFERENCE = ("mosso", "reference")  # package and backend: every op in plain torch, which is what mosso's kernels are held to
# What float32 makes of fewer atoms is few numbers, which chance makes small: 2e-8 to 6e-8 eV/A^3 of stress for 8 atoms moved by
# 0.001 A. So it is asked at so many places, moved by so much (A, one standard deviation), and the largest counts.
FEW_ATOMS, PLACES, MOVED = 100, 4, 1e-3


@dataclass(frozen=True)
class Inputs:
    """Structures that are evaluated together.

    Attributes:
        name: of file and truth.
        structures: in their order.
        path: npz with the fields of ``serve.Structures``.
        cells: what the structures are copies of, ``repeats`` times along each axis; None where they are no copies. Their truth
            is that of the cells, whatever the memory of the whole.
    """

    name: str
    structures: Sequence[Structure]
    path: Path
    cells: "Inputs | None" = None
    repeats: Repeats = (1, 1, 1)

    @staticmethod
    def of(name: str, system: NamedSystem, batch: int, folder: Path) -> "Inputs":
        """Those of a system."""
        inputs = Inputs.write(name, system.structures(batch), folder)
        if system.repeats == (1, 1, 1):
            return inputs
        return replace(inputs, cells=Inputs.write(f"{name}-cell", system.cells(batch), folder), repeats=system.repeats)

    @staticmethod
    def write(name: str, structures: Sequence[Structure], folder: Path) -> "Inputs":
        """To ``folder``, for all workers to read."""
        path = folder / f"{name}.npz"
        np.savez(
            path,
            numbers=np.concatenate([s.numbers for s in structures]),
            positions=np.concatenate([s.positions for s in structures]),
            system=np.repeat(np.arange(len(structures)), [len(s) for s in structures]),
            cells=np.stack([s.cell for s in structures]),
            pbc=np.stack([s.pbc for s in structures]),
        )
        return Inputs(name, structures, path)

    def places(self) -> "list[Inputs]":
        """These and, of few atoms, some more that differ by next to nothing, for errors of rounding to be of no single place."""
        random = np.random.default_rng(0)
        more = range(1, PLACES) if self.num_atoms < FEW_ATOMS else ()
        moved = [
            [replace(s, positions=s.positions + MOVED * random.standard_normal(s.positions.shape)) for s in self.structures] for _ in more
        ]
        return [self, *(Inputs.write(f"{self.name}-{n}", structures, self.path.parent) for n, structures in zip(more, moved, strict=True))]

    @property
    def num_atoms(self) -> int:
        return sum(len(s) for s in self.structures)

    @property
    def elements(self) -> frozenset[int]:
        return frozenset(int(z) for s in self.structures for z in s.numbers)

    @property
    def periodic(self) -> bool:
        """Whether all have a volume, and so a stress."""
        return all(s.volume > 0 for s in self.structures)


class Truths:
    """The answers of one model, kept.

    Args:
        judge: a contestant of the model by package, backend and precision.
        candidates: packages and backends in the order in which they are asked.
        folder: for answers.
    """

    def __init__(self, judge: Callable[[str, str, str], Contestant], candidates: Iterable[tuple[str, str]], folder: Path) -> None:
        self._make, self._candidates, self._folder = judge, list(candidates), folder
        self._judges: dict[tuple[str, str, str], Contestant] = {}
        self._known: dict[tuple[str, bool], Truth | str] = {}
        self._made: dict[tuple[str, str, bool], Errors | None] = {}

    def of(self, inputs: Inputs, stress: bool) -> Truth | str:
        """The truth for a batch, with stress where asked; a sentence where nobody could tell."""
        if inputs.cells is not None:
            truth = self.of(inputs.cells, stress)
            return truth if isinstance(truth, str) else truth.repeated(inputs.repeats)
        known = self._known.get((inputs.name, stress))
        if known is None:
            known = self._known[inputs.name, stress] = self._ask_all(inputs, stress)
        return known

    def beside_reference(self, inputs: Inputs, precision: str, stress: bool) -> Truth | str:
        """The truth, with what mosso's reference ops make of these atoms in ``precision``; without it where they cannot be asked."""
        truth = self.of(inputs, stress)
        return truth if isinstance(truth, str) else replace(truth, reference=self._errors_of_reference(inputs, precision, stress))

    def _errors_of_reference(self, inputs: Inputs, precision: str, stress: bool) -> Errors | None:
        asked = inputs.cells or inputs
        key = (asked.name, precision, stress)
        if key not in self._made:
            self._made[key] = None
            places = asked.places()
            truths, judge = [self.of(place, stress) for place in places], self._judge(*REFERENCE, precision)
            try:
                pairs = zip(truths, places, strict=True)
                self._made[key] = largest([t.errors(self._answer(judge, place, stress)) for t, place in pairs if not isinstance(t, str)])
            except (WorkerError, ValueError):
                pass  # the tolerance then has its own numbers only
            finally:
                judge.release()
        return self._made[key]

    def to_be_asked(self, inputs: Inputs, stress: bool, reference: str | None) -> list[Contestant]:
        """Whom ``of`` asks first for what is not known yet, and ``beside_reference`` in the precision ``reference``."""
        asked, judges = inputs.cells or inputs, []
        if (asked.name, stress) not in self._known:
            judges = [self._judge(package, backend, precision) for package, backend, precision in self._exact()[:1]]
        if reference is not None and (asked.name, reference, stress) not in self._made:
            judges.append(self._judge(*REFERENCE, reference))
        return judges

    def close(self) -> None:
        """End the judges; what they said is kept."""
        for judge in self._judges.values():
            judge.close()

    def _ask_all(self, inputs: Inputs, stress: bool) -> Truth | str:
        reasons = []
        for asked in (self._exact(), self._highest()):
            for package, backend, precision in asked:
                judge = self._judge(package, backend, precision)
                try:
                    return self._ask(judge, precision, inputs, stress)
                except (WorkerError, ValueError) as error:
                    reasons.append(f"{judge.holder}: {error}")
                finally:
                    judge.release()
        return f"nobody could say what is right ({'; '.join(reasons)})"

    def _exact(self) -> list[tuple[str, str, str]]:
        return [(package, backend, "fp64") for package, backend in self._candidates]

    def _highest(self) -> Iterable[tuple[str, str, str]]:
        """The most exact precision of those who have no fp64, which they say once they are loaded in another."""
        for package, backend in self._candidates:
            judge = self._judge(package, backend, "fp32")
            try:
                highest = judge.load().get("truth")
            except WorkerError:
                continue
            if isinstance(highest, str) and highest != "fp64":
                yield package, backend, highest

    def _judge(self, package: str, backend: str, precision: str) -> Contestant:
        key = (package, backend, precision)
        if key not in self._judges:
            self._judges[key] = self._make(*key)
        return self._judges[key]

    def _answer(self, judge: Contestant, inputs: Inputs, stress: bool) -> Answer:
        out = self._folder / "truth.npz"
        judge.ask("prepare", inputs=str(inputs.path), stress=stress)
        judge.ask("answer", out=str(out), with_list=judge.list_inside)
        return read_answer(out)

    def _ask(self, judge: Contestant, precision: str, inputs: Inputs, stress: bool) -> Truth:
        answer = self._answer(judge, inputs, stress)
        if not np.isfinite(answer.forces).all() or not np.isfinite(answer.energy).all():
            raise ValueError("its answer is not finite")
        counts = np.array([len(s) for s in inputs.structures])
        volumes = np.array([s.volume for s in inputs.structures])
        return Truth(answer, counts, volumes, f"{precision} of {judge.holder}")
