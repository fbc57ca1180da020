"""A tiny model in the place of the benchmark's, and competitors that start quickly."""

from dataclasses import replace
from pathlib import Path

import pytest
from bench.contest import Scene

from mosso.bench import cases
from mosso.bench.random_weights import checkpoint_of
from mosso.engine.potential import Potential

TINY = replace(cases.MP0_MEDIUM, hidden_irreps="4x0e+4x1o", species=(1, 6, 8), max_ell=2, radial_mlp=(8,), r_max=3.0)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark measures one tiny model on small systems."""
    monkeypatch.setitem(cases.MODELS, "mace-mp0-medium", TINY)


@pytest.fixture
def exact(tiny: None) -> Potential:
    """The tiny model in float64."""
    return Potential(checkpoint_of("mace-mp0-medium", None), precision="fp64")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Where harmonic competitors run."""
    return Scene(tmp_path)
