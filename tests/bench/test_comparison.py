"""How competitors are timed: pilots, dynamics, and memory that does not hold all of them at once."""

from typing import Any

import pytest
from bench.contest import QUICK, Scene

from mosso.bench import comparison, hardware
from mosso.bench.comparison import USUAL, Comparison, Entry, March, failure, throughput
from mosso.bench.matrix import Case, Protocol
from mosso.bench.rows import Task
from mosso.bench.systems import SYSTEMS
from mosso.bench.truths import Inputs, Truths
from mosso.bench.workers import WorkerError


class Scripted:
    """A contestant that replies from its description: fixed times, a need of memory.

    ``room``: memory that all of them share, in GB; None for as much as they like.
    """

    def __init__(self, scene: Scene, backend: str, ms: float = 1.0, needs: float = 0.0, room: list[float] | None = None) -> None:
        self.place, self.package, self.backend = scene.place, "scripted", backend
        self.ms, self.needs, self.room = ms, needs, room
        self.work: dict[str, float | None] | None = None
        self.held, self.list_inside, self.holder, self.asked = 0.0, False, f"scripted, {backend}", list[tuple[str, dict[str, Any]]]()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((do, arguments))
        return getattr(self, do)(**arguments)

    def prepare(self, inputs: str, stress: bool) -> dict[str, Any]:
        if self.room is not None and not self.held:
            if self.needs > self.room[0]:
                raise WorkerError("memory", "no room")
            self.room[0] -= self.needs
        self.held = self.needs
        return {"atoms": 8, "edges": 24, "work": self.work}

    def answer(self, out: str, with_list: bool) -> dict[str, Any]:
        return {"seconds": 0.1}

    def memory(self, with_list: bool) -> dict[str, Any]:
        return {"peak_GB": self.needs, "memory_of": "device"}

    def measure(self, calls: int, warm_up: int, what: str) -> dict[str, Any]:
        return {"ms": [self.ms] * calls}

    def dynamics(self, steps: int, seconds: float, warm_up: int, engine: str, timestep: float) -> dict[str, Any]:
        return {"ms": [self.ms], "steps": min(steps, int(1e3 * seconds / self.ms)), "warm_up": warm_up + 3}

    def release(self) -> None:
        if self.room is not None:
            self.room[0] += self.held
        self.held = 0.0

    def named(self, do: str) -> list[dict[str, Any]]:
        return [arguments for name, arguments in self.asked if name == do]


@pytest.fixture
def compare(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    """Entries of scripted contestants whose answers are right."""
    monkeypatch.setattr(comparison, "judged", lambda *arguments: {"error_forces": 0.0})

    def run(
        *contestants: Scripted, task: Task = "forces", protocol: Protocol = QUICK, memory: float | None = None, march: March = USUAL
    ) -> dict[str, Entry]:
        monkeypatch.setattr(hardware, "memory_GB", lambda device: memory)
        inputs = Inputs.write("C8-1", SYSTEMS["C8"].structures(1), scene.work)
        cases = [
            Case(model="spring", precision="fp32", system="C8", batch=1, task=task, package="scripted", backend=c.backend)
            for c in contestants
        ]
        found = Comparison(cases, contestants, inputs, ["nobody knows"] * len(cases), protocol, scene.work, march).run()
        return {entry.case.backend: entry for entry in found}

    return run


def test_calls_fill_the_time_but_are_not_more_than_a_hundred(scene: Scene, compare) -> None:
    protocol = Protocol(warm_up=10, rounds=5, seconds=2.0)
    found = compare(
        Scripted(scene, "fast", ms=0.5), Scripted(scene, "slow", ms=100.0), Scripted(scene, "crawls", ms=5000.0), protocol=protocol
    )
    calls = {name: (entry.fields["warm_up"], entry.fields["calls"]) for name, entry in found.items()}
    assert calls == {"fast": (10, 100), "slow": (10, 20), "crawls": (2, 5)}, "warm-up within the time, one call a turn at least"
    assert found["fast"].fields["ms"] == 0.5


def test_dynamics_are_a_run_in_every_turn(scene: Scene, compare) -> None:
    """Of as many steps as fit into the time, or of the protocol; all of them are counted, those before the clock started are not."""
    fast, slow = Scripted(scene, "fast", ms=1.0), Scripted(scene, "slow", ms=500.0)
    found = {name: entry.fields for name, entry in compare(fast, slow, task="md", protocol=Protocol(seconds=2.0, md_steps=900)).items()}
    assert [found[name]["calls"] for name in ("fast", "slow")] == [3 * 900, 3 * 4]
    assert [found[name]["rounds"] for name in ("fast", "slow")] == [3, 3]
    assert [found[name]["warm_up"] for name in ("fast", "slow")] == [103, 103]
    assert found["fast"]["ns_per_day"] == pytest.approx(86.4)
    assert found["fast"]["timestep_fs"] == 0.5
    assert {request["engine"] for request in fast.named("dynamics")} == {"own"}
    compare(fast, task="md", protocol=Protocol(seconds=60.0), march=March(0.02, 250))
    assert (fast.named("dynamics")[-1]["steps"], fast.named("dynamics")[-1]["timestep"]) == (250, 0.02)
    compare(slow, task="md-ase")
    assert slow.named("dynamics")[-1]["engine"] == "ase"


def test_those_who_fill_the_memory_are_timed_alone(scene: Scene, compare) -> None:
    room = [10.0]
    three = [Scripted(scene, name, needs=4.0, room=room) for name in ("one", "two", "three")]
    found = compare(*three, memory=10.0)
    assert {entry.fields["status"] for entry in found.values()} == {"ok"}
    assert room == [10.0], "all was given back"


def test_memory_that_others_hold_is_no_failure(scene: Scene, compare) -> None:
    """Together they need more than there is, though each alone fits; who needs more than all of it fails."""
    room = [10.0]
    entries = compare(
        Scripted(scene, "small", needs=3.0, room=room),
        Scripted(scene, "big", needs=9.0, room=room),
        Scripted(scene, "giant", needs=11.0, room=room),
        memory=None,
    )
    assert {name: entry.fields["status"] for name, entry in entries.items()} == {"small": "ok", "big": "ok", "giant": "error"}
    assert entries["giant"].fields["reason"] == "out of memory: no room"


def test_counted_work_is_that_of_an_evaluation(scene: Scene, compare) -> None:
    counted, uncounted, unlimited = (Scripted(scene, name, ms=2.0) for name in ("counted", "uncounted", "unlimited"))
    counted.work = {"gflops": 3.0, "gbytes": 0.5, "least_ms": 0.5}
    unlimited.work = {"gflops": 3.0, "gbytes": 0.5, "least_ms": None}
    found = {name: entry.fields for name, entry in compare(counted, uncounted, unlimited).items()}
    assert [found["counted"][name] for name in ("gflops", "gbytes", "limit_share")] == [3.0, 0.5, 0.25]
    assert found["uncounted"].get("gflops") is None and found["uncounted"]["limit_share"] is None
    assert (found["unlimited"]["gflops"], found["unlimited"]["limit_share"]) == (3.0, None)
    for task in ("list", "stress+list", "md"):
        (entry,) = compare(counted, task=task).values()
        assert "gflops" not in entry.fields and entry.fields["limit_share"] is None


def test_memory_is_asked_of_evaluations_only(scene: Scene, compare) -> None:
    for task, asked in (("stress", 1), ("forces+list", 1), ("list", 1), ("md", 0)):
        one = Scripted(scene, "one")
        compare(one, task=task)
        assert len(one.named("memory")) == asked - (task == "list"), task


def test_sensors_are_read_before_and_after(scene: Scene, compare, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([hardware.Sensors(1980.0, 40.0), hardware.Sensors(1755.0, 61.0)])
    monkeypatch.setattr(hardware, "sensors", lambda device: next(readings))
    fields = compare(Scripted(scene, "one"))["one"].fields
    assert (fields["clock_MHz"], fields["temperature_C"]) == ((1980.0, 1755.0), (40.0, 61.0))


def test_throughput_of_batches_is_no_dynamics(scene: Scene) -> None:
    inputs = Inputs.write("C8-2", SYSTEMS["C8"].structures(2), scene.work)
    case = Case(model="spring", precision="fp32", system="C8", batch=2, task="forces", package="p", backend="b")
    assert throughput(case, 4.0, inputs) == {"atoms_per_s": 4000.0}
    assert "ns_per_day" not in throughput(case.model_copy(update={"batch": 1, "task": "list"}), 4.0, inputs)


def test_reasons_are_told_in_words() -> None:
    assert failure(WorkerError("unsupported", "NotImplementedError: no stress"))["reason"] == "no stress"
    assert failure(WorkerError("memory", "too much"))["reason"] == "out of memory: too much"
    assert failure(WorkerError("timeout", "no reply"))["status"] == "error"


def test_a_list_inside_is_part_of_what_dynamics_are_checked_with(scene: Scene) -> None:
    rows = {row.task: row for row in scene.rows("inside", tasks=("forces", "forces+list", "list", "md"))}
    assert {task: row.status for task, row in rows.items()} == {
        "forces": "unsupported",
        "forces+list": "ok",
        "list": "unsupported",
        "md": "ok",
    }
    assert "inside every evaluation" in rows["forces"].reason


def test_nobody_knows(scene: Scene) -> None:
    truths = Truths(lambda package, backend, precision: scene.contestant("broken", precision), [("harmonic", "broken")], scene.work)
    said = truths.of(Inputs.write("C8-1", SYSTEMS["C8"].structures(1), scene.work), stress=False)
    assert said == "nobody could say what is right (harmonic, broken: ValueError: no such model)"
    truths.close()


def test_a_truth_is_asked_once(scene: Scene) -> None:
    truths = Truths(
        lambda package, backend, precision: scene.contestant(backend, precision), [("harmonic", "broken"), ("harmonic", "good")], scene.work
    )
    inputs = Inputs.write("W24-1", SYSTEMS["W24"].structures(1), scene.work)
    first = truths.of(inputs, stress=True)
    truths.close()
    assert truths.of(inputs, stress=True) is first
    assert first.source == "fp64 of harmonic, good", "the next one is asked where one fails"
    assert first.answer.stress.shape == (1, 3, 3)
    assert len(scene.journal("load")) == 2
