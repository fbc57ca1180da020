"""Builders of atoms."""

import pytest

from mosso.bench.cases import MODELS, TARGETS, copper, diamond, repeated, water
from mosso.bench.systems import SYSTEMS
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


def test_times_are_aimed_at_below_what_must_be() -> None:
    assert {model for model, *_ in TARGETS} == set(MODELS)
    assert {system for _, system, *_ in TARGETS} <= set(SYSTEMS)
    assert all(target.aim < target.must for target in TARGETS.values())


def test_repeating_keeps_the_density() -> None:
    box = water(2)
    large = repeated(box, (1, 2, 3))
    assert len(large) == 6 * len(box)
    assert large.volume == pytest.approx(6 * box.volume)
    assert neighbor_list(Batch.of([large]), 2.5).num_edges == 6 * neighbor_list(Batch.of([box]), 2.5).num_edges
