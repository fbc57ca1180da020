"""The systems of the benchmark."""

import numpy as np
import pytest

from mosso.bench.cases import SYSTEMS, TABLE, copper, diamond, repeated, water
from mosso.data.structure import Batch, Structure
from mosso.graph.neighbors import neighbor_list


@pytest.mark.parametrize(("lattice", "atoms", "edges"), [(copper(4), 64, 4992), (diamond(3), 216, 34128)])
def test_lattices_are_those_of_the_peers(lattice: Structure, atoms: int, edges: int) -> None:
    assert len(lattice) == atoms
    assert neighbor_list(Batch.of([lattice]), 6.0).num_edges == edges


def test_water_has_its_density_and_shape() -> None:
    box = water(2)
    assert 18.015 * 8 / 0.602214 / box.volume == pytest.approx(1.0, abs=1e-3)
    assert neighbor_list(Batch.of([box]), 1.2).num_edges == 2 * 16


def test_copies_differ_and_names_count_atoms() -> None:
    copies = SYSTEMS["Cu64x16"].cells()
    assert len(copies) == 16
    assert not np.array_equal(copies[0].positions, copies[1].positions)
    for name in ("W24000", "W98304"):
        assert sum(map(len, SYSTEMS[name].structures())) == int(name[1:])
    assert all(set(systems) <= set(SYSTEMS) for systems in TABLE.values())


def test_repeating_keeps_the_density() -> None:
    box = water(2)
    large = repeated(box, (1, 2, 3))
    assert len(large) == 6 * len(box)
    assert large.volume == pytest.approx(6 * box.volume)
    assert neighbor_list(Batch.of([large]), 2.5).num_edges == 6 * neighbor_list(Batch.of([box]), 2.5).num_edges
