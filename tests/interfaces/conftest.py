"""A potential for the interfaces to translate."""

import pytest
from cli.tiny_model import tiny_checkpoint

from mosso.engine.potential import BoundPotential, Potential


@pytest.fixture(scope="session")
def potential() -> Potential:
    return Potential(tiny_checkpoint(), name="tiny", precision="fp64")


@pytest.fixture
def count_calls(monkeypatch) -> list[bool]:
    """For every evaluation, whether stress was asked for."""
    calls: list[bool] = []
    evaluate = BoundPotential.evaluate

    def counting(self, batch, graph, *, stress=False, **options):
        calls.append(stress)
        return evaluate(self, batch, graph, stress=stress, **options)

    monkeypatch.setattr(BoundPotential, "evaluate", counting)
    return calls
