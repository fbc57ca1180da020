"""The Verlet list gives what a fresh list gives, whatever happens between updates, and searches rarely."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from systems import awkward, copper, water_box, water_molecule

from mosso.data.structure import Batch, Structure
from mosso.graph.graph import Graph
from mosso.graph.neighbors import neighbor_list
from mosso.graph.verlet import VerletList

CUTOFF, SKIN = 3.0, 0.6


def assert_fresh(graph: Graph, batch: Batch, cutoff: float = CUTOFF) -> None:
    fresh = neighbor_list(batch, cutoff)
    for name in ("receivers_E", "senders_E", "shifts_E3", "receiver_offsets", "transpose_E", "sender_offsets"):
        assert torch.equal(getattr(graph, name), getattr(fresh, name)), name
    assert (graph.num_edges, graph.cutoff) == (fresh.num_edges, fresh.cutoff)


def moved(structure: Structure, by: np.ndarray) -> Structure:
    return replace(structure, positions=structure.positions + by)


def test_random_walk_equals_fresh_lists_and_reuses() -> None:
    rng = np.random.default_rng(0)
    structures = [copper(rattle=0.05), water_box(2), awkward()["slab"], water_molecule(), Structure([], np.zeros((0, 3)))]
    verlet, edge_counts = VerletList(CUTOFF, SKIN), set()
    for _ in range(60):
        structures = [moved(s, 0.02 * rng.standard_normal(s.positions.shape)) for s in structures]
        batch = Batch.of(structures)
        graph = verlet.update(batch)
        assert_fresh(graph, batch)
        edge_counts.add(graph.num_edges)
    assert 2 <= verlet.num_builds <= 12
    assert len(edge_counts) > 10  # the filter had work to do


def test_builds_when_an_atom_moved_half_the_skin() -> None:
    structure, verlet = copper(), VerletList(CUTOFF, SKIN)
    verlet.update(Batch.of([structure]))
    step = np.zeros((len(structure), 3))
    step[5] = 0.5 * SKIN / np.sqrt(3)
    verlet.update(Batch.of([moved(structure, 0.99 * step)]))
    verlet.update(Batch.of([moved(structure, -0.99 * step)]))
    assert verlet.num_builds == 1
    verlet.update(Batch.of([moved(structure, 1.01 * step)]))
    assert verlet.num_builds == 2
    verlet.update(Batch.of([structure]))  # measured from the last build, so the way back is as far
    assert verlet.num_builds == 3


def test_slow_drift_adds_up() -> None:
    structure, verlet = copper(), VerletList(CUTOFF, SKIN)
    for step in range(21):
        batch = Batch.of([moved(structure, np.array([0.1 * step, 0.0, 0.0]))])
        assert_fresh(verlet.update(batch), batch)
    assert verlet.num_builds == 7  # every third step of 0.1 A reaches 0.3 A


def test_two_atoms_meeting_head_on() -> None:
    """Both move by nearly skin/2: the worst case the skin is made for."""
    far = CUTOFF + SKIN - 1e-3
    verlet = VerletList(CUTOFF, SKIN)
    verlet.update(Batch.of([Structure([1, 1], [[0.0, 0.0, 0.0], [far, 0.0, 0.0]])]))
    near = Batch.of([Structure([1, 1], [[0.4999 * SKIN, 0.0, 0.0], [far - 0.4999 * SKIN, 0.0, 0.0]])])
    assert verlet.update(near).num_edges == 2
    assert verlet.num_builds == 1


@pytest.mark.parametrize(
    "change",
    [
        {"cell": 3.61 * 2 * np.diag([1.0, 1.0, 1.001])},
        {"pbc": (True, True, False)},
        {"numbers": np.full(32, 28)},
    ],
    ids=["cell", "pbc", "numbers"],
)
def test_builds_when_the_system_changed(change: dict) -> None:
    structure, verlet = copper(), VerletList(CUTOFF, SKIN)
    verlet.update(Batch.of([structure]))
    batch = Batch.of([replace(structure, **change)])
    assert_fresh(verlet.update(batch), batch)
    assert verlet.num_builds == 2
    verlet.update(batch)
    assert verlet.num_builds == 2


def test_builds_when_shapes_changed() -> None:
    first, second = copper(), water_box(2)
    fewer = Structure(first.numbers[:-1], first.positions[:-1], first.cell, first.pbc)
    pair = water_molecule()
    six = Structure(np.tile(pair.numbers, 2), np.tile(pair.positions, (2, 1)) + np.repeat([[0.0] * 3, [2.0] * 3], 3, axis=0))
    halves = [Structure(six.numbers[:3], six.positions[:3]), Structure(six.numbers[3:], six.positions[3:])]
    verlet = VerletList(CUTOFF, SKIN)
    batches = [[first], [fewer], [first, second], [second, first], [], [six], halves, [first]]
    for builds, structures in enumerate(batches, start=1):
        batch = Batch.of(structures)
        assert_fresh(verlet.update(batch), batch)
        assert verlet.num_builds == builds


def test_batch_moved_in_place() -> None:
    batch, verlet = Batch.of([copper()]), VerletList(CUTOFF, SKIN)
    verlet.update(batch)
    batch.positions_N3[3] += 1.0
    assert_fresh(verlet.update(batch), batch)
    batch.cell_B33[0, 0, 0] += 0.3
    assert_fresh(verlet.update(batch), batch)
    assert verlet.num_builds == 3


def test_without_skin_every_update_builds() -> None:
    batch, verlet = Batch.of([copper()]), VerletList(CUTOFF, 0.0)
    for builds in (1, 2, 3):
        assert_fresh(verlet.update(batch), batch)
        assert verlet.num_builds == builds


def test_failed_update_leaves_no_outdated_list() -> None:
    structure, verlet = copper(), VerletList(CUTOFF, SKIN)
    verlet.update(Batch.of([structure]))
    broken = Batch.of([structure])
    broken.positions_N3[7, 0] = float("nan")
    with pytest.raises(ValueError, match="Structure 0: the position of atom 7 is not finite"):
        verlet.update(broken)
    batch = Batch.of([structure])
    assert_fresh(verlet.update(batch), batch)
    assert verlet.num_builds == 2


def test_atoms_that_meet_are_named_without_a_new_search() -> None:
    verlet = VerletList(CUTOFF, SKIN)
    verlet.update(Batch.of([water_molecule(), Structure([1, 1], [[0.0, 0.0, 0.0], [0.2, 0.0, 0.0]])]))
    with pytest.raises(ValueError, match="Structure 1: atoms 0 and 1"):
        verlet.update(Batch.of([water_molecule(), Structure([1, 1], [[0.1, 0.0, 0.0], [0.1, 0.0, 0.0]])]))
    assert verlet.num_builds == 1


@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf")])
def test_unusable_skin(skin: float) -> None:
    with pytest.raises(ValueError, match="zero or more"):
        VerletList(CUTOFF, skin)
