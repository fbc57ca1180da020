"""A run of the suite with competitors that are right, wrong, slow, dead or too large: a row for each, and the run goes on."""

import os
from pathlib import Path

import numpy as np
import pytest
import systems
from bench.contest import ADAPTER, QUICK, Scene

from mosso.bench.matrix import Competitor
from mosso.bench.rows import Row, append_row, read_rows
from mosso.bench.truths import FEW_ATOMS, MOVED, PLACES, Inputs


def by_backend(rows: list[Row]) -> dict[str, Row]:
    assert len({row.backend for row in rows}) == len(rows)
    return {row.backend: row for row in rows}


def test_a_good_row_says_everything_that_is_known(scene: Scene) -> None:
    (row,) = scene.rows("good", precisions=("fp32",))
    assert (row.status, row.reason) == ("ok", None)
    assert (row.model, row.architecture, row.package, row.backend) == ("spring", "Harmonic", "harmonic", "good")
    assert (row.weights, row.parameters, row.atoms, row.edges, row.batch) == ("random", 1, 8, 24, 1)
    assert (row.calls, row.rounds, row.warm_up) == (6, 3, 2)
    assert row.ms_p5 <= row.ms_low <= row.ms <= row.ms_high <= row.ms_p95
    assert row.atoms_per_s == pytest.approx(8e3 / row.ms)
    assert row.ns_per_day == pytest.approx(86.4 / row.ms), "at 1 fs a step"
    assert row.truth == "fp64 of harmonic, good"
    assert row.tolerance == "fp32/1"
    assert 0 < row.error_forces_relative < 1e-6
    assert row.error_energy < 1e-4
    assert row.memory_of == "process"
    assert 0.005 < row.peak_memory_GB < 2
    assert row.first_call_s > 0
    assert row.start_s is None and row.load_s is None, "it started beside others"
    assert row.versions["torch"] == "stub" and "numpy" in row.versions
    assert row.hardware.device == "cpu" and row.hardware.threads == 3
    assert row.source


def test_what_nobody_knows_is_none(scene: Scene) -> None:
    (row,) = scene.rows("good")
    unknown = ("gflops", "gbytes", "limit_share", "clock_MHz", "temperature_C", "tf32", "weights_sha256", "error_stress")
    assert all(getattr(row, name) is None for name in unknown)
    assert row.hardware.gpu is None and row.hardware.driver is None


def test_every_fault_is_a_row_and_the_suite_goes_on(scene: Scene) -> None:
    scene.timeout = 3.0
    faults = ("broken", "dies", "sleeps", "starved", "wrong", "undefined", "shapeless")
    rows = by_backend(scene.rows("good", *faults, "last", tasks=("forces",)))
    assert rows["good"].status == rows["last"].status == "ok"
    expected = {
        "broken": ("error", "no such model"),
        "dies": ("error", "ended during answer (exit code 11)"),
        "sleeps": ("error", "no reply to answer within 3 s"),
        "starved": ("error", "out of memory"),
        "wrong": ("refused", "forces off by 1.0e-02"),
        "undefined": ("refused", "forces off by nan"),
        "shapeless": ("error", "energies"),
    }
    for backend, (status, words) in expected.items():
        row = rows[backend]
        assert row.status == status, row
        assert words in row.reason
        assert row.ms is None and row.atoms_per_s is None, "no time without a right answer"
    assert rows["wrong"].error_forces_relative == pytest.approx(0.01, rel=1e-3), "the error itself is told"
    assert rows["undefined"].error_forces is None


def test_out_of_memory_of_the_process(scene: Scene) -> None:
    rows = scene.rows("hungry", "good", systems=("W24", "W1536"))
    found = {(row.backend, row.system): row for row in rows}
    assert found["hungry", "W24"].status == "ok"
    assert found["hungry", "W1536"].status == "error"
    assert found["hungry", "W1536"].reason.startswith("out of memory: MemoryError: too many atoms")
    assert found["good", "W1536"].status == "ok"


def test_a_package_that_cannot_be_had(scene: Scene) -> None:
    scene.obstacles["absent"] = "There is no environment for absent yet."
    rows = scene.rows(competitors=(Competitor("absent", ("default",)), Competitor("harmonic", ("good",))))
    assert [(row.package, row.status) for row in rows] == [("absent", "error"), ("harmonic", "ok")]
    assert rows[0].reason == "There is no environment for absent yet."
    assert rows[0].versions == {}


def test_a_package_without_adapter_is_unsupported(scene: Scene) -> None:
    scene.adapter = lambda package: Path("nowhere.py")
    (row,) = scene.rows("good")
    assert (row.status, row.reason) == ("unsupported", "there is no adapter for harmonic")


def test_what_cannot_be_measured_at_all(scene: Scene) -> None:
    rows = scene.rows("good", systems=("chain25",), tasks=("forces", "stress"), elements=frozenset({1, 6, 8}))
    assert {row.task: row.status for row in rows} == {"forces": "ok", "stress": "unsupported"}
    (row,) = scene.rows("good", systems=("Cu64",), elements=frozenset({1, 6, 8}))
    assert (row.status, row.reason) == ("unsupported", "the model does not know Cu")
    rows = scene.rows("good", tasks=("md",), batches=(2,))
    assert rows[0].reason == "dynamics are measured of one structure"
    rows = scene.rows("good", tasks=("largest",))
    assert rows[0].status == "unsupported"


def test_turns_are_taken(scene: Scene) -> None:
    scene.rows("one", "two", "three", tasks=("forces",))
    calls = [entry["backend"] for entry in scene.journal("evaluate") if entry["precision"] == "fp32"]
    timed = "".join({"one": "1", "two": "2", "three": "3"}[name] for name in calls[-27:])  # 3 rounds of 3 times 1 + 2 calls
    assert timed == "111222333" + "222333111" + "333111222"


def test_atoms_move_at_every_call(scene: Scene) -> None:
    scene.rows("good", tasks=("forces",))
    calls = [entry for entry in scene.journal("evaluate") if entry["precision"] == "fp32"]
    places = [call["position"] for call in calls]
    assert len(set(places)) == len(places) >= 10
    assert max(places) - min(places) < 1e-2, "by little, so that the neighbours stay"


def test_one_process_serves_all_tasks_of_a_precision(scene: Scene) -> None:
    rows = scene.rows("good", tasks=("forces", "stress", "forces+list", "stress+list", "list", "md"), systems=("C8", "W24"))
    assert len(rows) == 12
    assert {row.status for row in rows} == {"ok"}
    assert len(scene.journal("load")) == 2, "the competitor and the judge"


def test_a_process_that_died_is_started_again_for_the_next_case(scene: Scene) -> None:
    rows = scene.rows("dies", tasks=("forces", "stress"))
    assert [row.status for row in rows] == ["error", "error"]
    assert len([entry for entry in scene.journal("prepare") if entry["precision"] == "fp32"]) == 2


def test_a_model_that_cannot_be_loaded_is_tried_once_in_a_precision(scene: Scene) -> None:
    rows = scene.rows("good", "broken", tasks=("forces", "stress", "list"))
    assert [row.status for row in rows if row.backend == "broken"] == ["error"] * 3
    assert len([entry for entry in scene.journal("load") if entry["backend"] == "broken"]) == 1


def test_a_peer_without_float64_is_compared_with_its_own_highest_precision(scene: Scene) -> None:
    rows = by_backend(scene.rows("single"))
    assert rows["single"].status == "ok"
    assert rows["single"].truth == "fp32 of harmonic, single, itself"
    assert rows["single"].error_forces is None, "nobody knows how far it is off"
    rows = by_backend(scene.rows("single", precisions=("fp64",)))
    assert (rows["single"].status, rows["single"].reason) == ("unsupported", "single precision only")


def test_packages_with_weights_of_their_own_are_judged_by_themselves(scene: Scene) -> None:
    soft, stiff = Competitor("soft", ("good",)), Competitor("hard", ("stiff",))
    rows = by_backend(scene.rows(competitors=(soft, stiff)))
    assert rows["good"].truth == "fp64 of soft, good"
    assert rows["stiff"].truth == "fp64 of hard, stiff"
    assert {row.status for row in rows.values()} == {"ok"}


def test_shared_weights_have_one_truth(scene: Scene, tmp_path: Path) -> None:
    soft, stiff = Competitor("soft", ("good",)), Competitor("hard", ("stiff",))
    rows = by_backend(scene.rows(competitors=(soft, stiff), weights_from="soft"))
    assert rows["good"].status == "ok"
    assert rows["stiff"].status == "refused", "another answer for the same weights"
    assert rows["stiff"].truth == "fp64 of soft, good"
    assert rows["good"].weights == "random", "written for this run"
    file = tmp_path / "given.model"
    file.write_text("")
    (row,) = scene.rows("good", weights={"spring": file})
    assert row.weights == "file"
    assert scene.journal("load")[-1]["weights"] == str(file)


def as_mosso(scene: Scene, *backends: str, **more: object) -> list[Row]:
    """Harmonic adapters in the place of mosso, which is held to its reference ops."""
    mosso = Competitor("mosso", backends, ("reference",))
    return scene.rows(competitors=(mosso, Competitor("harmonic", ("other",))), weights_from="harmonic", **more)


def test_mosso_is_held_to_its_reference_ops(scene: Scene) -> None:
    rows = by_backend(as_mosso(scene, "good", "rough"))
    assert rows["good"].tolerance == rows["rough"].tolerance == "fp32-faithful/2" and rows["other"].tolerance == "fp32/1"
    assert rows["good"].status == rows["other"].status == "ok"
    assert rows["rough"].status == "refused" and "allowed" in rows["rough"].reason, "10 times what float32 makes would pass as another's"
    assert rows["rough"].error_forces_relative < 1e-4
    assert rows["good"].truth == "fp64 of mosso, reference"
    references = [entry["precision"] for entry in scene.journal("prepare") if entry["backend"] == "reference"]
    assert sorted(references) == ["fp32"] * PLACES + ["fp64"] * PLACES, "each once at each place"


def test_errors_of_few_atoms_are_asked_at_several_places(tmp_path: Path) -> None:
    few = Inputs.write("few", [systems.copper(2), systems.diamond(2)], tmp_path)
    many = Inputs.write("many", [systems.copper(3)], tmp_path)
    assert few.num_atoms < FEW_ATOMS <= many.num_atoms and many.places() == [many]
    places = few.places()
    assert places[0] is few and len(places) == len({place.path for place in places}) == PLACES
    for place in places[1:]:
        moved = np.concatenate([a.positions - b.positions for a, b in zip(place.structures, few.structures, strict=True)])
        assert 0.7 * MOVED < moved.std() < 1.3 * MOVED
        np.testing.assert_array_equal(np.load(place.path)["positions"], np.load(few.path)["positions"] + moved)


def test_where_the_reference_cannot_be_asked_its_errors_do_not_count(scene: Scene, tmp_path: Path) -> None:
    """Energies of some eV an atom, which float32 cannot hold to 1e-7."""
    scene.adapter = lambda package: tmp_path / "fails.py"
    fails = 'if (self.backend, self.precision) == ("reference", "fp32"):\n            raise MemoryError\n        self.note("prepare"'
    (tmp_path / "fails.py").write_text(ADAPTER.read_text().replace('self.note("prepare"', fails))
    row = by_backend(as_mosso(scene, "good"))["good"]
    assert row.status == "refused" and row.reason.endswith("eV/atom, 1.0e-07 allowed")


def test_copies_of_a_box_have_its_truth(scene: Scene) -> None:
    (row,) = scene.rows("good", systems=("boxes",))
    assert (row.status, row.atoms) == ("ok", 48)
    assert row.error_forces_relative < 1e-6
    asked = {(entry["precision"], entry["atoms"]) for entry in scene.journal("prepare")}
    assert asked == {("fp64", 24), ("fp32", 48)}, "the box, and what is made of it"


def test_dynamics_of_random_weights_take_short_steps(scene: Scene, tmp_path: Path) -> None:
    (row,) = scene.rows("good", tasks=("md",))
    assert (row.status, row.timestep_fs, row.weights) == ("ok", 0.005, "random")
    assert row.calls >= 3 * 40 and row.warm_up >= 20
    assert {entry["timestep"] for entry in scene.journal("step")} == {0.005}
    file = tmp_path / "trained.model"
    file.write_text("")
    (row,) = scene.rows("good", tasks=("md",), weights={"spring": file})
    assert (row.timestep_fs, row.weights) == (0.5, "file")


def test_weights_that_cannot_be_written_are_noted(scene: Scene) -> None:
    suite = scene.suite(competitors=(Competitor("hard", ("stiff",)),), weights_from="hard")
    notes: list[str] = []
    suite.note = notes.append
    (row,) = suite.rows()
    assert (row.status, row.weights) == ("ok", "random")
    assert notes == ["spring: hard wrote no weights (its weights stay inside)"]


def test_rows_that_exist_are_not_made_again(scene: Scene) -> None:
    first = scene.rows("good", "wrong", systems=("C8", "W24"))
    done = {row.key for row in first if row.status == "ok" and row.system == "C8"}
    second = scene.rows("good", "wrong", systems=("C8", "W24"), done=done)
    assert {(row.backend, row.system) for row in second} == {("wrong", "C8"), ("good", "W24"), ("wrong", "W24")}


def test_rows_survive_the_file(scene: Scene, tmp_path: Path) -> None:
    rows = scene.rows("good", "wrong", "undefined")
    for row in rows:
        append_row(tmp_path / "rows.jsonl", row)
    assert read_rows([tmp_path / "rows.jsonl"]) == rows


def test_closing_early_ends_all_processes(scene: Scene) -> None:
    suite = scene.suite("good", "other", systems=("C8", "W24"))
    before = _children()  # compilers of other tests
    coming = suite.rows()
    next(coming)
    children = _children() - before
    assert children
    coming.close()
    assert not _children() & children


def _children() -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found


def test_the_protocol_is_kept(scene: Scene) -> None:
    protocol = QUICK.model_copy(update={"warm_up": 7, "rounds": 2, "calls": 10, "seconds": 5.0})
    (row,) = scene.rows("good", protocol=protocol)
    assert (row.warm_up, row.calls, row.rounds) == (7, 10, 2)
