"""Start-up in a fresh process, and the largest box that fits."""

import math

import pytest
from bench.contest import ADAPTER, Scene

from mosso.bench import singles
from mosso.bench.cases import Repeats
from mosso.bench.matrix import Case
from mosso.bench.truths import Truths

SHAPES = singles.boxes()


def case_of(task: str, backend: str = "good", system: str = "C8") -> Case:
    return Case(model="spring", precision="fp32", system=system, batch=1, task=task, package="harmonic", backend=backend)


def test_boxes_grow_by_less_than_a_tenth() -> None:
    sizes = [math.prod(shape) for shape in SHAPES]
    assert sizes[0] == singles.MIN_MOLECULES and sizes[-1] <= singles.MAX_MOLECULES
    steps = [b / a for a, b in zip(sizes, sizes[1:], strict=False)]
    assert min(steps) >= singles.FINENESS
    assert max(step for step, size in zip(steps, sizes, strict=False) if size > 300) < singles.RESOLUTION
    assert all(max(shape) <= 2 * min(shape) for shape in SHAPES), "nearly cubic"


@pytest.mark.parametrize("most", [10, 64, 100, 5_000, 43_210, 2_000_000])
def test_the_search_finds_the_largest_that_fits(most: int) -> None:
    asked: list[Repeats] = []

    def fits(shape: Repeats) -> bool:
        asked.append(shape)
        return math.prod(shape) <= most

    expected = max((shape for shape in SHAPES if math.prod(shape) <= most), key=math.prod, default=None)
    assert singles.search(SHAPES, fits) == expected
    assert len(asked) == len(set(asked)) <= 26
    assert math.prod(asked[0]) == 64, "small ones first"


def test_start_up_is_that_of_a_fresh_process(scene: Scene) -> None:
    rows = scene.rows("good", "wrong", "dies", tasks=("forces", "startup"))
    found = {(row.task, row.backend): row for row in rows}
    row = found["startup", "good"]
    assert row.status == "ok" and row.ms is None
    assert row.start_s > 0.05 and row.load_s >= 0 and row.first_call_s > 0
    assert row.again_s > 0.05
    assert row.error_forces_relative < 1e-6
    assert (row.atoms, row.edges) == (8, 24)
    assert found["startup", "wrong"].status == "refused"
    assert found["startup", "dies"].status == "error"
    loads = [entry for entry in scene.journal("load") if entry["backend"] == "good" and entry["precision"] == "fp32"]
    assert len(loads) == 3, "other processes than that of the other task"


def test_start_up_finds_nothing_compiled_before(scene: Scene, tmp_path) -> None:
    scene.adapter = lambda package: tmp_path / "looks.py"
    text = ADAPTER.read_text().replace('self.note("load", ', 'self.note("load", cache=os.environ.get("TORCHINDUCTOR_CACHE_DIR"), ')
    (tmp_path / "looks.py").write_text(text)
    for _ in range(2):
        (row,) = scene.rows("good", tasks=("startup",))
        assert row.status == "ok"
    caches = [entry["cache"] for entry in scene.journal("load") if (entry["cache"] or "").startswith(str(scene.work))]  # not the judge's
    assert caches[0] == caches[1] != caches[2] == caches[3], "a second process finds what the first has compiled"


def largest(scene: Scene, backend: str, shapes: list[Repeats], timeout: float = 20.0):
    scene.timeout = timeout
    truths = Truths(lambda package, backend, precision: scene.contestant("good", precision), [("harmonic", "good")], scene.work)
    try:
        return singles.largest(
            case_of("largest", backend), scene.contestant(backend), lambda box, package: truths.of(box, stress=False), scene.work, shapes
        )  # fmt: skip
    finally:
        truths.close()


def test_the_largest_box_ends_where_memory_does(scene: Scene) -> None:
    fields = largest(scene, "hungry", [(4, 4, 4), (5, 5, 5), (6, 6, 6), (6, 7, 7), (7, 7, 7), (7, 8, 8)])
    assert fields["status"] == "ok"
    assert fields["atoms"] == 3 * 6 * 7 * 7, "1000 atoms are too many for it"
    assert fields["edges"] == 3 * fields["atoms"]
    assert fields["reason"] == "limit: 1029 atoms: out of memory: MemoryError: too many atoms"
    assert fields["peak_memory_GB"] > 0 and fields["memory_of"] == "process"
    assert fields["error_forces_relative"] < 1e-6


def test_all_that_were_tried_fit(scene: Scene) -> None:
    fields = largest(scene, "good", [(4, 4, 4), (4, 4, 5)])
    assert (fields["status"], fields["atoms"], fields["reason"]) == ("ok", 240, "limit: the largest box tried")


def test_a_wrong_answer_has_no_largest_box(scene: Scene) -> None:
    assert largest(scene, "wrong", [(4, 4, 4)])["status"] == "refused"
    fields = largest(scene, "sleeps", [(4, 4, 4)], timeout=1.5)
    assert fields["status"] == "error" and "no reply" in fields["reason"]
