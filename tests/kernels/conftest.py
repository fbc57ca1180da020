"""Fixtures of the contracts, and assertions that say what they compared in every module that contracts are made of."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("kernels.contract", *(f"kernels.{path.stem}" for path in Path(__file__).parent.glob("*_contract.py")))

from kernels.contract import poisoned  # noqa: E402


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    with poisoned():
        yield
