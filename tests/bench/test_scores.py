"""The combined score, from its parts."""

import csv
import os
from pathlib import Path

import pytest
from bench.page.made_up import row

from mosso.bench.matrix import MODELS
from mosso.bench.scores import CHECKPOINTS, SHAPES, combined, score_of, score_of_shape, scores


@pytest.mark.parametrize(
    ("parts", "cps"), [((1.0, 0.0, 0.0), 1.0), ((0.0, 2.0, 0.15), 0.0), ((0.0, 3.0, 0.9), 0.0), ((0.5, 1.0, 0.075), 0.25 + 0.2 + 0.05)]
)
def test_parts_have_their_weights(parts: tuple[float, float, float], cps: float) -> None:
    assert combined(*parts) == pytest.approx(cps)


def test_against_scores_as_published() -> None:
    shared = Path(os.environ.get("MOSSO_SHARED", Path(__file__).parents[2].parent / "shared")) / "data" / "matbench_discovery_scores.csv"
    if not shared.exists():
        pytest.skip(f"needs {shared.name} in the shared data (MOSSO_SHARED)")
    known = {line["model_key"]: line for line in csv.DictReader(text for text in shared.read_text().splitlines() if text[0] != "#")}
    assert set(scores()) <= set(known)
    for key, score in scores().items():
        assert score.cps == pytest.approx(float(known[key]["CPS"]), abs=6e-5), key


def test_only_the_exact_checkpoint_has_a_score() -> None:
    exact = score_of(row(model="mace-mpa-0-medium", weights="official"))
    assert exact is not None
    assert exact.cps == pytest.approx(0.5 * 0.852 + 0.4 * (1 - 0.4123 / 2) + 0.1 * (1 - 0.0731 / 0.15))
    for weights in ("random", "file", None):
        assert score_of(row(model="mace-mpa-0-medium", weights=weights)) is None
    assert score_of(row(model="mace-mp0-medium", weights="official")) is None  # a shape of the matrix
    assert score_of(row(model="uma-s", weights="official")) is None


def test_shapes_show_whose_they_are() -> None:
    found = score_of_shape(row(model="nequip-oam-l", weights="random"))
    assert found is not None
    assert found.key == "nequip-oam-l-0.1"
    assert score_of_shape(row(model="nequip-oam-s")) is None


def test_names_exist() -> None:
    assert set(SHAPES.values()) | set(CHECKPOINTS.values()) <= set(scores())
    assert set(SHAPES) <= set(MODELS)


def test_the_table_says_where_it_is_from() -> None:
    from importlib.resources import files

    head = files("mosso.bench.page").joinpath("scores.csv").read_text().splitlines()[:2]
    assert "2c7f9fc42d018711dc2f5df573d225ea6d2d17b2" in head[1]
    assert "MIT" in head[1]
