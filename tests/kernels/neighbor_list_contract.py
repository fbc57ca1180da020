"""The contract of the device neighbour list in Triton: on a CUDA device, or under Triton's interpreter on the CPU.

Started by test_contracts.py in a process of its own. Truth is the same list on the CPU, where
the host searches and torch selects; tests/graph/test_device_list.py holds that one against brute force.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from kernels.contract import CUDA, DEVICE, assert_same_bits, poisoned
from systems import FCC, awkward, crystal, lattice, scattered, water_molecule
from torch import Tensor

from mosso.data.structure import Batch, Structure
from mosso.graph.device_list import CANDIDATES, EDGES, MOVED, SPANS, DeviceList
from mosso.graph.graph import Graph

CUTOFF, SKIN = 3.0, 0.6
METHODS = ("brute", "cells")
AWKWARD = awkward(CUTOFF)
# The interpreter takes seconds for what a GPU does in microseconds: there, fewer systems and fewer atoms.
NAMES = [
    "skewed",
    "far outside",
    "slab with middle open, far outside",
    "chain without other vectors",
    "open without a cell",
    "one atom in a small cell",
    "two atoms far apart",
    "no atoms in a cell",
    "dimer just inside",
    "dimer at the cutoff",
]
SENTINEL = 99


def first_atoms(structure: Structure, num_atoms: int) -> Structure:
    return Structure(structure.numbers[:num_atoms], structure.positions[:num_atoms], structure.cell, structure.pbc)


SYSTEMS = AWKWARD if CUDA else {name: first_atoms(AWKWARD[name], 6) for name in NAMES}


def on_device(batch: Batch) -> Batch:
    tensors = {name: value.to(DEVICE) for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **tensors)


def gas(cell: np.ndarray, pbc: tuple[bool, bool, bool], num_atoms: int, seed: int = 0) -> Structure:
    """Random atoms, some of them several cells away along the periodic directions: many bins of few atoms."""
    away = np.round(2.0 * np.random.default_rng(seed).standard_normal((num_atoms, 3))) * np.array(pbc)
    return Structure(np.ones(num_atoms), scattered(cell, num_atoms, 0.7, seed) + away @ cell, cell, pbc)


def moved(batch: Batch, length: float, seed: int = 0) -> Batch:
    steps_N3 = torch.randn(batch.num_atoms, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return replace(batch, positions_N3=batch.positions_N3 + length * steps_N3 / steps_N3.norm(dim=1, keepdim=True))


def strained(batch: Batch, scale: float) -> Batch:
    return replace(batch, positions_N3=scale * batch.positions_N3, cell_B33=scale * batch.cell_B33)


def lists(batch: Batch, method: str, room: tuple[int | None, int | None] = (4000, 8000)) -> tuple[DeviceList, DeviceList]:
    """The list under test and the one on the CPU that says what is right."""
    tested = DeviceList(on_device(batch), CUTOFF, SKIN, *room, method=method, implementation="triton")
    return tested, DeviceList(batch, CUTOFF, SKIN, *room, implementation="reference")


def rebuild(tested: DeviceList, right: DeviceList, batch: Batch) -> None:
    with poisoned():
        tested.rebuild(on_device(batch))
    right.rebuild(batch)
    real = slice(0, int(right._candidates.offsets[-1]))
    for name in ("offsets", "outgoing_C", "senders_C", "receivers_C"):
        assert torch.equal(getattr(tested._candidates, name).cpu(), getattr(right._candidates, name)), name
    assert torch.equal(tested._candidates.shifts_C3[real].cpu(), right._candidates.shifts_C3[real])


def select(tested: DeviceList, right: DeviceList, batch: Batch) -> Graph:
    with poisoned():
        graph = tested.graph(on_device(batch))
    want = right.graph(batch)
    for name in ("senders_E", "receivers_E", "shifts_E3", "receiver_offsets", "transpose_E", "sender_offsets"):
        assert torch.equal(getattr(graph, name).cpu(), getattr(want, name)), name
    assert tested.needed() == right.needed()
    assert int(tested.flags) == int(right.flags)
    return graph


@pytest.mark.parametrize("method", METHODS if CUDA else METHODS[1:])
@pytest.mark.parametrize("name", SYSTEMS)
def test_awkward_systems(name: str, method: str) -> None:
    batch = Batch.of([SYSTEMS[name]])
    tested, right = lists(batch, method)
    rebuild(tested, right, batch)
    select(tested, right, batch)
    select(tested, right, moved(batch, 0.499 * SKIN))
    assert int(tested.flags) == 0


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_many_bins(pbc: tuple[bool, bool, bool]) -> None:
    lengths, num_atoms = ((13.0, 15.6, 18.2), 300) if CUDA else ((16.0, 9.0, 4.0), 8)
    batch = Batch.of([gas(lattice(*lengths, 70.0, 80.0, 100.0), pbc, num_atoms)])
    tested, right = lists(batch, "cells")
    assert int(tested._bins.counts_B3.max()) > 2
    rebuild(tested, right, batch)
    select(tested, right, moved(batch, 0.499 * SKIN))


@pytest.mark.parametrize("method", METHODS)
def test_batch_of_different_systems(method: str) -> None:
    cell, few = lattice(2.8, 6.0, 7.0, 70.0, 80.0, 100.0), 8 if CUDA else 2
    gases = [gas(cell, (True, True, False), few), gas(cell, (False, False, False), few)]
    wide = gas(np.diag([2.9, 8.0, 12.0]), (True, True, False), 2 * few)
    batch = Batch.of([*gases, *(AWKWARD[name] for name in ("one atom in a small cell", "no atoms", "water molecule")), wide])
    tested, right = lists(batch, method)
    rebuild(tested, right, batch)
    select(tested, right, moved(batch, 0.4 * SKIN))


def test_perfect_crystal_in_order_of_ties() -> None:
    """Diamond in its primitive cell."""
    batch = Batch.of([crystal(3.567 * FCC, np.array([[0.0] * 3, [0.25] * 3]), [6, 6])])
    tested, right = lists(batch, "cells")
    rebuild(tested, right, batch)
    select(tested, right, batch)


def test_changing_cell() -> None:
    """The plan was made for another cell; the search follows the one of today."""
    batch = Batch.of([gas(np.diag([9.0, 5.0, 5.0]), (True, True, True), 8 if CUDA else 4)])
    tested, right = lists(batch, "cells")
    rebuild(tested, right, batch)
    select(tested, right, strained(batch, 0.99))
    assert int(tested.flags) == 0
    select(tested, right, strained(batch, 0.9))
    assert int(tested.flags) == MOVED
    for scale in (0.8, 1.3):
        for both in (tested, right):
            both.reset()
        rebuild(tested, right, strained(batch, scale))
        select(tested, right, strained(batch, scale))
        assert int(tested.flags) == 0


def test_cell_too_small_for_the_plan() -> None:
    batch = on_device(Batch.of([gas(9.0 * np.eye(3), (True, True, True), 2)]))
    tested = DeviceList(batch, CUTOFF, SKIN, 400, 800, implementation="triton")
    for scale in (0.3, 0.0, float("nan")):
        tested.reset()
        tested.rebuild(strained(batch, scale))
        graph = tested.graph(strained(batch, scale))
        assert int(tested.flags) != 0
        if scale == 0.3:
            assert int(tested.flags) & SPANS and int(graph.receiver_offsets[-1]) == 0


def test_atoms_that_moved_too_far_or_nowhere() -> None:
    batch = Batch.of([water_molecule(), water_molecule()])
    tested, right = lists(batch, "brute")
    rebuild(tested, right, batch)
    select(tested, right, moved(batch, 0.501 * SKIN))
    assert int(tested.flags) == MOVED
    tested.reset()
    lost = on_device(batch)
    lost.positions_N3[4, 1] = float("nan")
    tested.graph(lost)
    assert int(tested.flags) == MOVED
    tested.rebuild(lost)
    assert int(tested.graph(lost).receiver_offsets[-1]) == 6 + 2
    assert int(tested.flags) == MOVED


def guarded(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor like this one with memory behind it that nobody may write to, and that memory."""
    memory = tensor.new_full((2 * tensor.numel() + 64,), SENTINEL)
    inside = memory[: tensor.numel()].view(tensor.shape)
    inside.copy_(tensor)
    return inside, memory[tensor.numel() :]


def test_overflow_stays_within_the_buffers_and_leaves_an_empty_graph() -> None:
    batch = Batch.of([gas(np.diag([2.5, 9.0, 9.0]), (True, False, False), 3), water_molecule()])
    _, enough = lists(batch, "brute")
    enough.rebuild(batch)
    enough.graph(batch)
    edges, candidates = enough.needed()
    for room, flag in (((edges - 1, candidates), EDGES), ((edges, candidates - 1), CANDIDATES), ((edges, candidates), 0)):
        tested, right = lists(batch, "brute", room)
        pairs = [guarded(tensor) for tensor in (*tested._candidates, *tested._edges)]
        tested._candidates = type(tested._candidates)(*(inside for inside, _ in pairs[: len(tested._candidates)]))
        tested._edges = type(tested._edges)(*(inside for inside, _ in pairs[len(tested._candidates) :]))
        tested.rebuild(on_device(batch))
        right.rebuild(batch)
        graph = select(tested, right, batch)
        assert (int(tested.flags), int(graph.receiver_offsets[-1])) == (flag, 0 if flag else edges)
        assert all(bool((behind == SENTINEL).all()) for _, behind in pairs)


def test_the_same_bits_in_every_run() -> None:
    batch = Batch.of([gas(np.diag([9.0, 5.0, 5.0]), (True, True, False), 30 if CUDA else 5)])
    first, second = (DeviceList(on_device(batch), CUTOFF, SKIN, method=method, implementation="triton") for method in METHODS)
    for device_list in (first, second):
        device_list.rebuild(on_device(batch))
        device_list.graph(on_device(batch))
    assert_same_bits((*first._candidates, *first._edges), (*second._candidates, *second._edges))
