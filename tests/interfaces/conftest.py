"""A potential for the interfaces to translate."""

import pytest
from cli.tiny_model import tiny_checkpoint

from mosso.engine.potential import Potential


@pytest.fixture(scope="session")
def potential() -> Potential:
    return Potential(tiny_checkpoint(), name="tiny", precision="fp64")


@pytest.fixture
def count_calls(potential, monkeypatch) -> list[bool]:
    """For every evaluation, whether stress was asked for."""
    calls: list[bool] = []
    evaluate = potential.evaluate

    def counting(batch, graph, *, stress=False, **options):
        calls.append(stress)
        return evaluate(batch, graph, stress=stress, **options)

    monkeypatch.setattr(potential, "evaluate", counting)
    return calls
