"""Counts of operations and bytes."""

import pytest

from mosso.bench.cases import MP0_MEDIUM
from mosso.bench.limits import H200, Cost, Size, costs, limits_table

SIZE = Size(atoms=1000, edges=158_000, species=1, intervals=1024)


def by_name(size: Size = SIZE) -> dict[tuple[str, str], Cost]:
    return {(cost.op, cost.direction): cost for cost in costs(MP0_MEDIUM, size)}


def test_known_counts() -> None:
    found = by_name()
    assert found["contraction 0", "forward"].flops == 2 * 604 * 1000 * 128
    assert found["convolution 1", "forward"].flops == 2 * (98 + 3 * 10) * 158_000 * 128
    assert found["mix 1", "forward"].flops == 2 * 1000 * 40 * 128**2
    assert found["up 1", "forward"].bytes == 4 * (2 * 1000 * 4 * 128 + 128**2)
    assert len(found) == sum(1 for _ in costs(MP0_MEDIUM, SIZE))


def test_edges_cost_where_edges_are() -> None:
    small, large = by_name(), by_name(Size(1000, 316_000, 1, 1024))
    assert large["convolution 1", "backward"].flops == 2 * small["convolution 1", "backward"].flops
    assert large["product 0", "forward"] == small["product 0", "forward"]


def test_the_larger_of_two_limits_counts() -> None:
    cost = Cost("op", "forward", flops=67e12, bytes=8.4e12)
    assert cost.microseconds(H200) == pytest.approx(2e6)
    assert cost.bound(H200) == "memory"
    assert limits_table(MP0_MEDIUM, SIZE).count("\n") == len(by_name()) + 2
