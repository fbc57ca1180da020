"""The search for the largest box."""

import itertools
import math

import pytest

from mosso.bench import largest


def test_boxes_grow_and_stay_nearly_cubic() -> None:
    shapes = list(itertools.islice(largest.boxes(), 30))
    sizes = [math.prod(shape) for shape in shapes]
    assert sizes == sorted(sizes)
    assert all(max(shape) - min(shape) <= 1 for shape in shapes)


@pytest.mark.parametrize("capacity", [13, 64, 300, 847])
@pytest.mark.parametrize("waste", [0.0, 0.3])  # memory that the first boxes do not tell of
def test_search_finds_the_last_box_that_fits(capacity: int, waste: float) -> None:
    asked: list[int] = []

    def fits(shape: tuple[int, int, int]) -> dict[str, float] | None:
        cells = math.prod(shape)
        asked.append(cells)
        share = cells / capacity * (1 - waste if cells <= 12 else 1)
        return {"atoms": 1536 * cells, "share": share} if cells <= capacity else None

    found = largest.search(fits)
    want = max(n for n in (math.prod(shape) for shape in itertools.islice(largest.boxes(), 45)) if n <= capacity)
    assert found is not None
    assert found["atoms"] == 1536 * want
    assert len(asked) <= 12


def test_nothing_fits() -> None:
    assert largest.search(lambda shape: None) is None
