"""A tiny model in the place of the benchmark's."""

from dataclasses import replace

import pytest

from mosso.bench import cases, mace_table
from mosso.engine.potential import Potential

TINY = replace(cases.MP0_MEDIUM, hidden_irreps="4x0e+4x1o", species=(1, 6, 8), max_ell=2, radial_mlp=(8,), r_max=3.0)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark measures one tiny model on small systems."""
    monkeypatch.setitem(cases.MODELS, "mace-mp0-medium", TINY)
    monkeypatch.setitem(cases.TABLE, "mace-mp0-medium", ("C8", "W192"))


@pytest.fixture
def exact(tiny: None) -> Potential:
    """The tiny model in float64."""
    return Potential(mace_table.checkpoint_of("mace-mp0-medium", None), precision="fp64")
