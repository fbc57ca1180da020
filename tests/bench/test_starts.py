"""Processes that start side by side, and what must not happen meanwhile."""

import os
from pathlib import Path

import pytest
from bench.contest import ADAPTER, Scene

from mosso.bench.environments import Interpreter
from mosso.bench.matrix import Competitor
from mosso.bench.rows import Row
from mosso.bench.suite import Contest
from mosso.bench.workers import Worker

# Whoever arrives waits for the others; where they do not come, because one is started after the other, that is an error.
BARRIER = """
import pathlib
def meet(place, number):
    folder = pathlib.Path(os.environ["HARMONIC_JOURNAL"]).with_name(place)
    folder.mkdir(exist_ok=True)
    (folder / str(os.getpid())).touch()
    end = time.monotonic() + 10
    while len(list(folder.iterdir())) < number:
        if time.monotonic() > end:
            raise TimeoutError(f"nobody else came to {place}")
        time.sleep(0.01)
"""
# Live processes of the same parent that serve an adapter, this one included.
SIBLINGS = """
import pathlib
def siblings():
    def serves(folder):
        try:
            of = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            return of[1] == str(os.getppid()) and of[0] != "Z" and b"serve.py" in (folder / "cmdline").read_bytes()
        except OSError:
            return False
    return sum(map(serves, pathlib.Path("/proc").glob("[0-9]*")))
"""
NOTES = 'self.note("load", '


def adapt(scene: Scene, *edits: tuple[str, str], before: str = "", behind: str = "") -> None:
    """The harmonic adapter with pieces of its text replaced, and more before its class and behind it."""
    text = ADAPTER.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    path = scene.folder / "edited.py"
    path.write_text(text.replace("class Adapter", before + "\nclass Adapter") + behind)
    scene.adapter = lambda package: path


def mosso_and_another(scene: Scene, **more: object) -> list[Row]:
    """Two that read what a third writes, the judge of both and the reference that one is held to."""
    competitors = Competitor("mosso", ("good",), ("reference",)), Competitor("harmonic", ("other",))
    return scene.rows(competitors=competitors, weights_from="harmonic", **more)


def test_all_that_are_needed_import_and_load_together(scene: Scene) -> None:
    """Five import: two contestants, two judges, and the writer of weights. Four load what it has written."""
    load = f"if weights:\n            meet('loading', 4)\n        {NOTES}"
    adapt(scene, (NOTES, load), before=BARRIER, behind="\n\nmeet('importing', 5)\n")
    assert [(row.status, row.reason) for row in mosso_and_another(scene)] == [("ok", None)] * 2


def test_nobody_is_timed_while_another_loads(scene: Scene) -> None:
    slow = 'if backend == "slow":\n            time.sleep(0.5)\n        ' + NOTES
    adapt(scene, (NOTES, slow))
    rows = scene.rows("good", "slow", tasks=("forces", "stress"))
    assert {row.status for row in rows} == {"ok"}
    done = [entry["what"] for entry in scene.journal("load", "evaluate") if entry["precision"] == "fp32"]
    assert done[:2] == ["load"] * 2 and "load" not in done[2:]


def test_a_judge_that_is_not_asked_after_all_is_waited_for(scene: Scene) -> None:
    """The reference in fp32, where it is known from another precision that there is no truth to hold its answer to."""
    slow = 'if (backend, precision) == ("reference", "fp32"):\n            time.sleep(0.5)\n        ' + NOTES
    prepare = 'self.note("prepare", '
    fails = f'if self.precision == "fp64":\n            raise ValueError("no answer")\n        {prepare}'
    adapt(scene, (NOTES, slow), (prepare, fails))
    _, row = scene.rows(competitors=(Competitor("mosso", ("good",), ("reference",)),), precisions=("fp64", "fp32"))
    assert row.status == "refused" and "nobody could say what is right" in row.reason
    done = [(entry["what"], entry["backend"]) for entry in scene.journal("load", "evaluate") if entry["precision"] == "fp32"]
    assert done[-1] == ("evaluate", "good") and done.count(("load", "reference")) == 2, "once for each precision"


def test_what_has_the_machine_to_itself_is_alone(scene: Scene) -> None:
    count = f'self.note("alive", siblings=siblings(), fresh="TRITON_CACHE_DIR" in os.environ)\n        {NOTES}'
    adapt(scene, (NOTES, count), before=SIBLINGS)
    rows = scene.rows("good", "other", tasks=("startup", "forces"))
    assert [(row.task, row.status) for row in rows] == [(task, "ok") for task in ("forces", "startup") for _ in range(2)]
    alive = {fresh: [entry["siblings"] for entry in scene.journal("alive") if entry["fresh"] == fresh] for fresh in (True, False)}
    assert alive[True] == [1] * 4, "both, twice"
    assert max(alive[False]) == 3, "two contestants and a judge"
    assert [row.start_s is not None and row.load_s is not None for row in rows] == [False, False, True, True]


def test_what_is_measured_in_a_fresh_process_has_no_other(scene: Scene) -> None:
    starts: list[str] = []
    scene.adapter = lambda package: starts.append(package) or ADAPTER
    (row,) = scene.rows("good", tasks=("startup",))
    assert row.status == "ok" and starts == ["harmonic"] * 3, "itself, once more, and the judge"


def test_the_largest_box_is_looked_for_alone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Contest, "_obstacle", lambda *arguments: None)  # there is no GPU
    note = 'self.note("prepare", siblings=siblings(), '
    adapt(scene, ('self.note("prepare", ', note), before=SIBLINGS)
    competitors = Competitor("one", ("hungry",)), Competitor("two", ("hungry",))
    rows = scene.rows(competitors=competitors, tasks=("largest", "forces"))
    assert [(row.task, row.status) for row in rows] == [(task, "ok") for task in ("forces", "largest") for _ in range(2)]
    boxes = [entry for entry in scene.journal("prepare") if entry["atoms"] >= 3 * 64 and entry["precision"] == "fp32"]
    assert len(boxes) > 6 and {entry["siblings"] for entry in boxes} == {1}


def test_a_failing_import_is_a_row_and_not_tried_for_every_case(scene: Scene, tmp_path: Path) -> None:
    broken, starts = tmp_path / "broken.py", tmp_path / "starts"
    broken.write_text(f"open({str(starts)!r}, 'a').write('x')\nraise ImportError('no driver')\n")
    scene.adapter = lambda package: broken if package == "broken" else ADAPTER
    competitors = Competitor("broken", ("default",)), Competitor("harmonic", ("good",))
    rows = scene.rows(competitors=competitors, tasks=("forces", "stress", "list"), systems=("C8", "W24"))
    assert {(row.package, row.status, row.reason) for row in rows} == {
        ("broken", "error", "ImportError: no driver"),
        ("harmonic", "ok", None),
    }
    assert starts.read_text() == "xxx", "the contestant, and as a judge in two precisions"


def test_where_the_writer_fails_nobody_waits_for_its_weights(scene: Scene) -> None:
    suite = scene.suite(competitors=(Competitor("hard", ("stiff",)), Competitor("soft", ("good",))), weights_from="hard")
    rows = list(suite.rows())
    assert [(row.status, row.weights, row.truth) for row in rows] == [
        ("ok", "random", "fp64 of hard, stiff"),
        ("ok", "random", "fp64 of soft, good"),
    ]
    assert {entry["weights"] for entry in scene.journal("load")} == {None}


def test_environments_are_found_before_anything_starts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    find = scene.interpreter

    def interpreter(package: str) -> Interpreter:
        events.append(f"{package} found")
        return find(package)

    scene.interpreter = interpreter  # type: ignore[method-assign]
    scene.adapter = lambda package: events.append("start") or ADAPTER
    scene.rows(competitors=(Competitor("one", ("good",)), Competitor("two", ("good",))))
    assert set(events[: events.index("start")]) == {"one found", "two found"}


@pytest.mark.parametrize("method", ["ready", "send", "reply"])
def test_an_interrupt_during_the_start_ends_all(scene: Scene, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    made: list[int] = []
    spawn = Worker.__init__

    def spawned(self: Worker, *arguments: object) -> None:
        spawn(self, *arguments)
        made.append(self._process.pid)

    def interrupt(self: Worker, *arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Worker, "__init__", spawned)
    monkeypatch.setattr(Worker, method, interrupt)
    with pytest.raises(KeyboardInterrupt):
        mosso_and_another(scene)
    assert len(made) == 5
    for process in made:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
