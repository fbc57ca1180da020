"""Competitors at the same task on the same atoms: each examined alone first, then timed in turns."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mosso.bench import hardware
from mosso.bench.checks import Truth, read_answer, tolerance_of
from mosso.bench.competitor import Contestant
from mosso.bench.matrix import Case, Protocol
from mosso.bench.statistics import summarise
from mosso.bench.truths import Inputs
from mosso.bench.workers import WorkerError

# Share of the memory that competitors may hold together; where they would hold more, each is timed with the others away.
SHARE = 0.5
MAX_CALLS = 100  # of a competitor in all turns together, where the protocol says none
TURN_WARM_UP = 1  # calls at the beginning of a turn that are not counted: caches belong to the one before
PILOT_CALLS = 2
MD_WARM_UP = 10  # steps of dynamics for a call: lists are kept over many steps


class March(NamedTuple):
    """How dynamics go: steps in fs, and how many of them are timed at most."""

    timestep: float
    most_steps: int | None = None


USUAL = March(0.5)
# With random weights water is far from rest: it is at 500 K after 6 fs, at 1000 K after 10 fs, and after 20 fs atoms fall onto each other
# (docs/log.md). These steps, and as many before them at most, end before that.
OF_RANDOM_WEIGHTS = March(0.005, 1000)
WHAT = {"forces": "evaluation", "stress": "evaluation", "forces+list": "both", "stress+list": "both", "list": "list"}
ENGINE = {"md": "own", "md-ase": "ase"}


@dataclass(eq=False)
class Entry:
    """A competitor in a comparison, and what is found out about it.

    Attributes:
        truth: the answer it has to give, or why nobody knows it.
        fields: of its row.
        rounds: milliseconds of the calls of each turn.
        calls: of one turn.
        steps: of dynamics, in all turns.
        least_ms: what a call takes at the limits of the device; None where they or its work are not known.
    """

    case: Case
    contestant: Contestant
    truth: Truth | str
    fields: dict[str, Any] = field(default_factory=dict)
    rounds: list[list[float]] = field(default_factory=list)
    calls: int = 1
    steps: int = 0
    least_ms: float | None = None

    @property
    def going(self) -> bool:
        """Whether there is still a time to be measured."""
        return "status" not in self.fields

    @property
    def with_list(self) -> bool:
        """Whether the neighbour search is part of what is checked."""
        return self.case.task.endswith("list") or (self.case.task in ENGINE and self.contestant.list_inside)

    def fail(self, error: WorkerError) -> None:
        """The row tells why there is no time."""
        self.fields |= failure(error)


def failure(error: WorkerError) -> dict[str, Any]:
    """Status and reason of a row for what a competitor could not do."""
    if error.kind == "unsupported":
        return {"status": "unsupported", "reason": str(error).removeprefix("NotImplementedError: ")}
    return {"status": "error", "reason": f"out of memory: {error}" if error.kind == "memory" else str(error)}


def judged(contestant: Contestant, truth: Truth | str, case: Case, out: Path) -> dict[str, Any]:
    """Fields of a row that say how right the answer in ``out`` is; ``status`` is among them where it is not."""
    if isinstance(truth, str):
        return {"status": "refused", "reason": truth}
    tolerance = tolerance_of(case.package, case.precision)
    itself = truth.source == f"{case.precision} of {contestant.holder}"
    fields: dict[str, Any] = {"truth": f"{truth.source}, itself" if itself else truth.source, "tolerance": tolerance.name}
    try:
        answer = read_answer(out)
        if case.task.startswith("stress") and answer.stress is None:
            raise ValueError("the answer holds no stress")
        errors = truth.errors(answer)
    except ValueError as error:
        return fields | {"status": "error", "reason": str(error)}
    if not itself:  # nobody knows how far the most exact one is off
        fields |= errors.fields()
    refusal = truth.refusal(errors, tolerance)
    return fields if refusal is None else fields | {"status": "refused", "reason": refusal}


class Comparison:
    """One task on one batch of atoms, for several competitors.

    Args:
        cases: one for each competitor, of one group.
        contestants: theirs.
        inputs: the atoms.
        truths: what each has to answer, or why nobody knows.
        protocol: how times are taken.
        folder: for answers.
        march: of dynamics; the same for all.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        contestants: Sequence[Contestant],
        inputs: Inputs,
        truths: Sequence[Truth | str],
        protocol: Protocol,
        folder: Path,
        march: March = USUAL,
    ) -> None:
        self.entries = [Entry(*each) for each in zip(cases, contestants, truths, strict=True)]
        self._task = cases[0].task
        self._inputs, self._protocol, self._march = inputs, protocol, march
        self._out = folder / "answer.npz"
        self._device = contestants[0].place.device
        self._together = True
        # Several numbers of one dynamics say nothing about another; they are long, too.
        self._num_rounds = min(protocol.rounds, 3) if self._task in ENGINE else protocol.rounds

    def run(self) -> list[Entry]:
        """All entries with the fields of their rows; status is ``ok`` where there is a time."""
        room = hardware.memory_GB(self._device) or math.inf
        for entry in self.entries:
            self._examine_alone(entry)
            held = sum(e.fields.get("peak_memory_GB") or 0.0 for e in self.entries if e.going)
            if self._together and held > SHARE * room:
                self._together = False
                self._release_all()
        going = [entry for entry in self.entries if entry.going]
        if self._together:
            self._time(going)
        else:
            for entry in going:
                self._guarded(entry, self._prepare)
                self._time([entry] if entry.going else [])
                entry.contestant.release()
        self._release_all()
        return self.entries

    def _release_all(self) -> None:
        for entry in self.entries:
            entry.contestant.release()

    def _examine_alone(self, entry: Entry) -> None:
        """Answer, verdict and memory; once more without the others' atoms where memory did not suffice beside them."""
        others = self._together and any(e.fields for e in self.entries if e is not entry and e.going)
        try:
            self._examine(entry)
        except WorkerError as error:
            if error.kind == "memory" and others:
                self._together = False
                self._release_all()
                self._guarded(entry, self._examine)
            else:
                entry.fail(error)
        if not (self._together and entry.going):
            entry.contestant.release()

    def _examine(self, entry: Entry) -> None:
        contestant = entry.contestant
        self._prepare(entry)
        entry.fields["first_call_s"] = contestant.ask("answer", out=str(self._out), with_list=entry.with_list)["seconds"]
        entry.fields |= judged(contestant, entry.truth, entry.case, self._out)
        if entry.going and WHAT.get(self._task) in ("evaluation", "both"):
            entry.fields |= renamed(contestant.ask("memory", with_list=entry.with_list))

    def _prepare(self, entry: Entry) -> None:
        reply = entry.contestant.ask("prepare", inputs=str(self._inputs.path), stress=self._task.startswith("stress"))
        entry.fields |= {"atoms": reply["atoms"], "edges": reply["edges"]}
        if WHAT.get(self._task) == "evaluation" and (work := reply["work"]):
            entry.least_ms = work["least_ms"]
            entry.fields |= {"gflops": work["gflops"], "gbytes": work["gbytes"]}

    def _time(self, entries: Sequence[Entry]) -> None:
        """Turns of competitors that are prepared; who begins changes from round to round."""
        if self._task not in ENGINE:  # they warm up in every turn, and see themselves how long to go on
            for entry in entries:
                self._guarded(entry, self._pilot)
        before = hardware.sensors(self._device)
        for turn in range(self._num_rounds):
            first = turn % max(len(entries), 1)
            for entry in (*entries[first:], *entries[:first]):
                if entry.going:
                    self._guarded(entry, self._turn)
        after = hardware.sensors(self._device)
        for entry in entries:
            if entry.going:
                entry.fields |= self._timings(entry)
                if before and after:
                    entry.fields["clock_MHz"] = (before.clock_MHz, after.clock_MHz)
                    entry.fields["temperature_C"] = (before.temperature_C, after.temperature_C)

    def _guarded(self, entry: Entry, part: Callable[[Entry], None]) -> None:
        try:
            part(entry)
        except WorkerError as error:
            entry.fail(error)

    def _pilot(self, entry: Entry) -> None:
        """How many calls a turn has, from a few that are part of the warm-up."""
        most = 1e3 * self._protocol.seconds
        ms = max(self._measure(entry, PILOT_CALLS, 0)[-1], 1e-3)
        warm_up = max(min(self._protocol.warm_up - PILOT_CALLS, int(most / ms)), 0)
        if warm_up:
            ms = max(self._measure(entry, 1, warm_up - 1)[-1], 1e-3)
        entry.fields["warm_up"] = PILOT_CALLS + warm_up
        wanted = self._protocol.calls or min(max(int(most / ms), self._num_rounds), MAX_CALLS)
        entry.calls = math.ceil(wanted / self._num_rounds)

    def _turn(self, entry: Entry) -> None:
        if self._task in ENGINE:
            entry.rounds.append(self._run(entry))
        else:
            entry.rounds.append(self._measure(entry, entry.calls, TURN_WARM_UP))

    def _measure(self, entry: Entry, calls: int, warm_up: int) -> list[float]:
        return list(entry.contestant.ask("measure", calls=calls, warm_up=warm_up, what=WHAT[self._task])["ms"])

    def _run(self, entry: Entry) -> list[float]:
        """Of dynamics, one."""
        protocol, march = self._protocol, self._march
        reply = entry.contestant.ask(
            "dynamics",
            steps=min(protocol.md_steps, march.most_steps or protocol.md_steps),
            seconds=protocol.seconds,
            warm_up=MD_WARM_UP * protocol.warm_up,
            engine=ENGINE[self._task],
            timestep=march.timestep,
        )
        entry.steps += reply["steps"]
        entry.fields |= {"warm_up": reply["warm_up"], "timestep_fs": march.timestep}
        return list(reply["ms"])

    def _timings(self, entry: Entry) -> dict[str, Any]:
        summary = summarise(entry.rounds)
        return {
            "status": "ok",
            "calls": entry.steps or sum(map(len, entry.rounds)),
            "rounds": len(entry.rounds),
            **summary.fields(),
            "limit_share": None if entry.least_ms is None else entry.least_ms / summary.ms,
            **throughput(entry.case, summary.ms, self._inputs),
        }


def renamed(reply: dict[str, Any]) -> dict[str, Any]:
    """Memory, as rows call it."""
    return {"peak_memory_GB": reply["peak_GB"], "memory_of": reply["memory_of"]}


def throughput(case: Case, ms: float, inputs: Inputs) -> dict[str, float]:
    """Atoms a second, and nanoseconds a day at a step of 1 fs for what can be a step of dynamics."""
    found = {"atoms_per_s": 1e3 * inputs.num_atoms / ms}
    if case.batch == 1 and case.task in ("forces", "forces+list", *ENGINE):
        found["ns_per_day"] = 86400e3 / ms * 1e-6
    return found
