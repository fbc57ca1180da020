"""The device list gives the edges of the oracle as long as it says nothing, and says so when it may not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from systems import awkward, copper, copper_primitive, rocksalt_slab, water_box, water_molecule

from mosso.data.structure import Batch, Structure
from mosso.graph.bins import plan_bins
from mosso.graph.device_list import CANDIDATES, EDGES, MOVED, DeviceList
from mosso.graph.graph import Graph, edge_vectors
from mosso.graph.neighbors import neighbor_list

CUTOFF, SKIN = 3.0, 0.6
AWKWARD = awkward(CUTOFF)
Edge = tuple[int, ...]


def edges(graph: Graph) -> list[Edge]:
    """(receiver, sender, shift) of the real edges in the order of the graph."""
    table = torch.cat([graph.receivers_E[:, None], graph.senders_E[:, None], graph.shifts_E3], 1)
    return list(map(tuple, table[: int(graph.receiver_offsets[-1])].tolist()))


def assert_invariants(graph: Graph, batch: Batch) -> None:
    """What ``Graph`` promises, padding included."""
    count = int(graph.receiver_offsets[-1])
    assert (graph.receivers_E.diff() >= 0).all()
    assert torch.equal(graph.transpose_E, torch.argsort(graph.senders_E, stable=True))
    for offsets, ends in ((graph.receiver_offsets, graph.receivers_E), (graph.sender_offsets, graph.senders_E)):
        counts = torch.bincount(ends[:count], minlength=batch.num_atoms)
        assert torch.equal(offsets, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
    lengths_E = edge_vectors(batch, graph).norm(dim=1)
    assert (lengths_E[:count] < CUTOFF).all() and (lengths_E[count:] == CUTOFF).all()


def assert_oracle(graph: Graph, batch: Batch) -> None:
    found = edges(graph)
    assert sorted(found) == edges(neighbor_list(batch, CUTOFF, "brute"))
    assert_invariants(graph, batch)


def moved(batch: Batch, by_N3: torch.Tensor) -> Batch:
    return replace(batch, positions_N3=batch.positions_N3 + by_N3)


def steps(batch: Batch, length: float, seed: int = 0) -> torch.Tensor:
    """(N, 3) displacements in random directions, all of the same length (A)."""
    steps_N3 = torch.randn(batch.num_atoms, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return length * steps_N3 / steps_N3.norm(dim=1, keepdim=True)


def strained(batch: Batch, strain: np.ndarray) -> Batch:
    """Cells and positions under the same homogeneous strain, as a barostat makes them."""
    change = torch.as_tensor(np.eye(3) + strain)
    return replace(batch, positions_N3=batch.positions_N3 @ change, cell_B33=batch.cell_B33 @ change)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_systems_move_within_the_skin(name: str) -> None:
    batch = Batch.of([AWKWARD[name]])
    device_list = DeviceList(batch, CUTOFF, SKIN)
    device_list.rebuild(batch)
    assert_oracle(device_list.graph(batch), batch)
    for seed in range(5):
        later = moved(batch, steps(batch, 0.499 * SKIN, seed))
        assert_oracle(device_list.graph(later), later)
    assert int(device_list.flags) == 0


def test_batch_of_everything() -> None:
    batch = Batch.of(AWKWARD.values())
    device_list = DeviceList(batch, CUTOFF, SKIN)
    for seed in range(3):
        device_list.rebuild(batch)
        assert_oracle(device_list.graph(batch), batch)
        batch = moved(batch, steps(batch, 0.4 * SKIN, seed))
        assert_oracle(device_list.graph(batch), batch)
    assert int(device_list.flags) == 0


def test_same_buffers_at_every_call() -> None:
    batch = Batch.of([copper()])
    device_list = DeviceList(batch, CUTOFF, SKIN)
    device_list.rebuild(batch)
    first, second = device_list.graph(batch), device_list.graph(moved(batch, steps(batch, 0.2)))
    device_list.rebuild(moved(batch, steps(batch, 1.0)))
    third = device_list.graph(batch)
    for name in ("receivers_E", "senders_E", "shifts_E3", "receiver_offsets", "transpose_E", "sender_offsets"):
        assert len({getattr(graph, name).data_ptr() for graph in (first, second, third)}) == 1


def test_moving_beyond_the_skin_is_flagged_until_reset() -> None:
    batch = Batch.of([copper(), water_molecule()])
    device_list = DeviceList(batch, CUTOFF, SKIN)
    device_list.rebuild(batch)
    far = torch.zeros_like(batch.positions_N3)
    far[-1] = torch.tensor([0.0, 0.501 * SKIN, 0.0])
    device_list.graph(moved(batch, 0.99 * far))
    assert int(device_list.flags) == 0
    device_list.graph(moved(batch, far))
    assert int(device_list.flags) == MOVED
    device_list.graph(batch)
    assert int(device_list.flags) == MOVED
    device_list.reset()
    device_list.graph(batch)
    assert int(device_list.flags) == 0
    far[0, 0] = float("nan")
    device_list.graph(moved(batch, far))
    assert int(device_list.flags) == MOVED


def test_two_atoms_meeting_head_on() -> None:
    """Both move by nearly skin/2: the worst case the skin is made for."""
    far = CUTOFF + SKIN - 1e-3
    start = Batch.of([Structure([1, 1], [[0.0, 0.0, 0.0], [far, 0.0, 0.0]])])
    device_list = DeviceList(start, CUTOFF, SKIN, edge_capacity=4)
    device_list.rebuild(start)
    near = Batch.of([Structure([1, 1], [[0.4999 * SKIN, 0.0, 0.0], [far - 0.4999 * SKIN, 0.0, 0.0]])])
    assert edges(device_list.graph(near)) == [(0, 1, 0, 0, 0), (1, 0, 0, 0, 0)]
    assert int(device_list.flags) == 0


CHANGES: dict[str, Callable[[float], np.ndarray]] = {
    "isotropic": lambda size: -size * np.eye(3),
    "uniaxial": lambda size: -size * np.diag([1.0, 0.0, 0.0]),
    "shear": lambda size: size * np.array([[0.0, 1.0, 0.0], [0.3, 0.0, 0.0], [0.0, -0.5, 0.0]]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("structure", [copper_primitive(), copper(), AWKWARD["skewed"], AWKWARD["far outside"], rocksalt_slab()])
def test_changing_cell(structure: Structure, change: str) -> None:
    """The graph is right until the list says it may not be; small strains with small moves pass, large ones do not."""
    batch = Batch.of([structure])
    flagged = {}
    for size in (0.01, 0.03, 0.1, 0.3):
        device_list = DeviceList(batch, CUTOFF, SKIN, edge_capacity=10_000)
        device_list.rebuild(batch)
        later = moved(strained(batch, CHANGES[change](size)), steps(batch, 0.1 * SKIN))
        graph = device_list.graph(later)
        flagged[size] = int(device_list.flags)
        if flagged[size] == 0:
            assert_oracle(graph, later)
    assert (flagged[0.01], flagged[0.3]) == (0, MOVED)


def test_cell_shrinking_around_atoms_that_stay() -> None:
    batch = Batch.of([water_box(2)])
    device_list = DeviceList(batch, CUTOFF, SKIN, edge_capacity=10_000)
    device_list.rebuild(batch)
    for share, expected in ((0.999, 0), (0.9, MOVED)):
        later = replace(batch, cell_B33=share * batch.cell_B33)
        graph = device_list.graph(later)
        assert int(device_list.flags) == expected
        if not expected:
            assert_oracle(graph, later)


@pytest.mark.parametrize("axis", [1, 2])
def test_vectors_of_open_directions_mean_nothing(axis: int) -> None:
    batch = Batch.of([AWKWARD["slab"], AWKWARD["chain"], AWKWARD["open with a cell"]])
    device_list = DeviceList(batch, CUTOFF, SKIN)
    device_list.rebuild(batch)
    cell_B33 = torch.where(batch.pbc_B3.unsqueeze(-1), batch.cell_B33, 7.0 * batch.cell_B33)
    later = replace(batch, cell_B33=cell_B33)
    assert_oracle(device_list.graph(later), later)
    assert int(device_list.flags) == 0


@pytest.mark.parametrize("structures", [[copper(), water_molecule()], [copper_primitive()], [AWKWARD["dimer just inside"]]])
def test_overflow_is_flagged_and_leaves_an_empty_graph(structures: list[Structure]) -> None:
    batch = Batch.of(structures)
    num_edges, num_candidates = (neighbor_list(batch, reach).num_edges for reach in (CUTOFF, CUTOFF + SKIN))
    for short, flag in (((num_edges - 1, num_candidates), EDGES), ((num_edges, num_candidates - 1), CANDIDATES)):
        device_list = DeviceList(batch, CUTOFF, SKIN, *short)
        device_list.rebuild(batch)
        graph = device_list.graph(batch)
        assert int(device_list.flags) == flag
        assert edges(graph) == []
        assert_invariants(graph, batch)
        assert device_list.needed() == (num_edges if flag == EDGES else 0, num_candidates)
        larger = device_list.grown(batch)
        larger.rebuild(batch)
        assert_oracle(larger.graph(batch), batch)
        assert int(larger.flags) == 0
    exact = DeviceList(batch, CUTOFF, SKIN, num_edges, num_candidates)
    exact.rebuild(batch)
    assert_oracle(exact.graph(batch), batch)
    assert (int(exact.flags), exact.needed()) == (0, (num_edges, num_candidates))


def test_list_recovers_when_there_is_room_again() -> None:
    dense, sparse = Batch.of([copper()]), Batch.of([replace(copper(), positions=1.2 * copper().positions, cell=1.2 * copper().cell)])
    device_list = DeviceList(sparse, CUTOFF, SKIN)
    device_list.rebuild(dense)
    assert edges(device_list.graph(dense)) == []
    device_list.reset()
    device_list.rebuild(sparse)
    assert_oracle(device_list.graph(sparse), sparse)
    assert int(device_list.flags) == 0


def test_without_skin_a_list_serves_the_positions_it_was_built_for() -> None:
    batch = Batch.of([copper()])
    device_list = DeviceList(batch, CUTOFF, 0.0)
    device_list.rebuild(batch)
    assert_oracle(device_list.graph(batch), batch)
    assert int(device_list.flags) == 0
    device_list.graph(moved(batch, steps(batch, 1e-6)))
    assert int(device_list.flags) == MOVED


def test_batch_without_systems() -> None:
    batch = Batch.of([])
    device_list = DeviceList(batch, CUTOFF, SKIN)
    device_list.rebuild(batch)
    assert_oracle(device_list.graph(batch), batch)
    assert (int(device_list.flags), device_list.capacity) == (0, (0, 0))


@pytest.mark.parametrize("name", AWKWARD)
def test_bins_are_wide_enough_and_not_more_than_atoms(name: str) -> None:
    for structure in (AWKWARD[name], replace(AWKWARD[name], cell=7 * AWKWARD[name].cell, positions=7 * AWKWARD[name].positions)):
        batch = Batch.of([structure])
        bins = plan_bins(batch, CUTOFF, "cells")
        assert 1 <= bins.total == int(bins.counts_B3.prod()) <= max(1, len(structure))
        reduced_33 = bins.complete((bins.transform_B33.unsqueeze(-1) * batch.cell_B33.unsqueeze(1)).sum(2))[0]
        heights_3 = 1.0 / torch.linalg.inv(reduced_33).norm(dim=0)
        several_3 = bins.periodic_B3[0] & (bins.counts_B3[0] > 1)
        assert (heights_3 / bins.counts_B3[0] >= CUTOFF)[several_3].all()
        assert bins.spans_B3.min() >= 1


def test_misuse() -> None:
    batch = Batch.of([copper()])
    with pytest.raises(ValueError, match="zero or more"):
        DeviceList(batch, CUTOFF, -0.1)
    with pytest.raises(ValueError, match="positive, finite"):
        DeviceList(batch, 0.0, SKIN)
    with pytest.raises(ValueError, match="choose auto, brute or cells"):
        DeviceList(batch, CUTOFF, SKIN, method="octree")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="use smaller batches"):
        DeviceList(batch, CUTOFF, SKIN, 10, 2**31)
    device_list = DeviceList(batch, CUTOFF, SKIN)
    with pytest.raises(ValueError, match="call rebuild first"):
        device_list.graph(batch)
    with pytest.raises(ValueError, match="make a new list"):
        device_list.rebuild(Batch.of([copper(), copper()]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", ["brute", "cells"])
def test_captured_in_cuda_graphs(method: str) -> None:
    """Rebuild and graph, replayed while atoms move and cells change, against fresh lists of the oracle."""
    structures = [copper(3), water_box(4), water_molecule(), AWKWARD["slab"], AWKWARD["far outside"]]
    batch = Batch.of(structures, "cuda")
    device_list = DeviceList(batch, CUTOFF, SKIN, method=method, implementation="triton")
    device_list.rebuild(batch)  # compiles before the capture
    device_list.graph(batch)
    rebuild, select = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(rebuild):
        device_list.rebuild(batch)
    with torch.cuda.graph(select):
        graph = device_list.graph(batch)
    for step in range(6):
        if step % 3 == 0:
            rebuild.replay()
        select.replay()
        assert int(device_list.flags) == 0
        here = Batch.of(structures)
        here = replace(here, positions_N3=batch.positions_N3.cpu(), cell_B33=batch.cell_B33.cpu())
        names = ("senders_E", "receivers_E", "shifts_E3", "receiver_offsets", "transpose_E", "sender_offsets")
        assert_oracle(replace(graph, **{name: getattr(graph, name).cpu() for name in names}), here)
        batch.positions_N3.mul_(0.999).add_(steps(here, 0.1 * SKIN, step).cuda())
        batch.cell_B33.mul_(0.999)
    far = torch.full_like(batch.positions_N3, SKIN)
    batch.positions_N3.add_(far)
    select.replay()
    assert int(device_list.flags) == MOVED


def test_graphs_do_not_remember_when_the_list_was_rebuilt() -> None:
    batch = Batch.of([*AWKWARD.values(), water_box(2)])
    early, late = DeviceList(batch, CUTOFF, SKIN), DeviceList(batch, CUTOFF, SKIN, edge_capacity=20000, candidate_capacity=30000)
    later = moved(batch, steps(batch, 0.4 * SKIN))
    early.rebuild(batch)
    late.rebuild(later)
    for device_list in (early, late):
        graph = device_list.graph(later)
        assert edges(graph) == edges(neighbor_list(later, CUTOFF, "brute"))
        assert_invariants(graph, later)
        trimmed = graph.trimmed()
        assert trimmed.num_edges == trimmed.capacity == int(graph.receiver_offsets[-1])
        assert torch.equal(trimmed.transpose_E, torch.argsort(trimmed.senders_E, stable=True))


def test_used_is_one_where_the_list_begins_to_fail() -> None:
    batch = Batch.of([copper(), water_molecule()])
    device_list = DeviceList(batch, CUTOFF, SKIN)
    device_list.rebuild(batch)
    assert float(device_list.used(batch)) == 0.0
    for share in (0.3, 0.999, 1.001):
        later = moved(batch, steps(batch, share * 0.5 * SKIN))
        assert float(device_list.used(later)) == pytest.approx(share, rel=1e-5)
        device_list.graph(later)
        assert bool(device_list.flags) == (share > 1.0)
    crystal = Batch.of([copper()])
    device_list = DeviceList(crystal, CUTOFF, SKIN)
    device_list.rebuild(crystal)
    for squeeze in (0.02, 0.15, 0.17):
        later = strained(crystal, np.diag([-squeeze, 0.0, 0.0]))
        assert float(device_list.used(later)) == pytest.approx(squeeze * (CUTOFF + SKIN) / SKIN, rel=1e-5)
        device_list.graph(later)
        assert bool(device_list.flags) == (squeeze * (CUTOFF + SKIN) > SKIN)
