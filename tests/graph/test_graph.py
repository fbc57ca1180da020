"""Graph: the invariants every kernel relies on."""

from dataclasses import replace

import pytest
import torch
from systems import awkward, copper, water_box, water_molecule

from mosso.data.structure import Batch, Structure
from mosso.graph import graph as graph_module
from mosso.graph.graph import Graph, edge_vectors
from mosso.graph.neighbors import neighbor_list

CUTOFF = 3.0


def everything() -> Batch:
    return Batch.of(awkward(CUTOFF).values())


def rows(graph: Graph) -> list[tuple[int, ...]]:
    return list(map(tuple, torch.cat([graph.receivers_E[:, None], graph.senders_E[:, None], graph.shifts_E3], 1).tolist()))


def assert_same(a: Graph, b: Graph) -> None:
    for name in ("receivers_E", "senders_E", "shifts_E3", "receiver_offsets", "transpose_E", "sender_offsets"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert (a.num_edges, a.cutoff) == (b.num_edges, b.cutoff)


def test_order_is_by_receiver_sender_shift() -> None:
    found = rows(neighbor_list(everything(), CUTOFF))
    assert found == sorted(found)
    assert len(found) == len(set(found)) > 500


def test_offsets_delimit_the_edges_of_each_atom() -> None:
    batch = everything()
    graph = neighbor_list(batch, CUTOFF)
    assert graph.receiver_offsets.shape == graph.sender_offsets.shape == (batch.num_atoms + 1,)
    assert int(graph.receiver_offsets[-1]) == int(graph.sender_offsets[-1]) == graph.num_edges == graph.capacity
    for atom in range(batch.num_atoms):
        incoming = torch.arange(int(graph.receiver_offsets[atom]), int(graph.receiver_offsets[atom + 1]))
        assert torch.equal(incoming, (graph.receivers_E == atom).nonzero().squeeze(1))
        outgoing = graph.transpose_E[int(graph.sender_offsets[atom]) : int(graph.sender_offsets[atom + 1])]
        assert torch.equal(outgoing, (graph.senders_E == atom).nonzero().squeeze(1))  # stable: ascending edges


def test_transpose_is_a_permutation_by_sender() -> None:
    graph = neighbor_list(everything(), CUTOFF)
    assert torch.equal(graph.transpose_E.sort().values, torch.arange(graph.capacity))
    assert bool((graph.senders_E[graph.transpose_E].diff() >= 0).all())


def test_every_edge_has_its_reverse_and_the_opposite_vector() -> None:
    batch = everything()
    graph = neighbor_list(batch, CUTOFF)
    place = {row: edge for edge, row in enumerate(rows(graph))}
    reverse = torch.tensor([place[(s, r, -x, -y, -z)] for r, s, x, y, z in rows(graph)])
    vectors = edge_vectors(batch, graph)
    assert torch.equal(vectors[reverse], -vectors)  # to the last bit


def test_edges_stay_within_their_system() -> None:
    batch = everything()
    graph = neighbor_list(batch, CUTOFF)
    assert torch.equal(batch.system_N[graph.senders_E], batch.system_N[graph.receivers_E])


def test_edges_in_any_order_give_the_same_graph() -> None:
    batch = everything()
    graph = neighbor_list(batch, CUTOFF)
    order = torch.randperm(graph.num_edges, generator=torch.Generator().manual_seed(0))
    shuffled = (graph.senders_E[order], graph.receivers_E[order], graph.shifts_E3[order])
    assert_same(Graph.from_edges(*shuffled, batch.num_atoms, CUTOFF), graph)
    # shifts that do not fit into one integer key together: the order key by key must be the same
    wide = torch.cat([shuffled[2], torch.tensor([[-(2**30), 2**30, -(2**30)], [2**30, 0, 0]])])
    senders, receivers = (torch.cat([end, torch.tensor([0, 0])]) for end in shuffled[:2])
    by_key = Graph.from_edges(senders, receivers, wide, batch.num_atoms, CUTOFF)
    assert rows(by_key) == sorted([*rows(graph), (0, 0, -(2**30), 2**30, -(2**30)), (0, 0, 2**30, 0, 0)])


def test_translations_beyond_32_bits_are_refused() -> None:
    end = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(ValueError, match="wrap the positions"):
        Graph.from_edges(end, end, torch.tensor([[0, -(2**31), 0]]), 1, CUTOFF)


def test_selection_is_a_graph_of_the_kept_edges() -> None:
    batch = everything()
    graph = neighbor_list(batch, CUTOFF)
    for share in (0.0, 0.3, 1.0):
        keep = torch.rand(graph.num_edges, generator=torch.Generator().manual_seed(1)) < share
        expected = Graph.from_edges(graph.senders_E[keep], graph.receivers_E[keep], graph.shifts_E3[keep], batch.num_atoms, CUTOFF)
        assert_same(graph.select(keep), expected)


@pytest.mark.parametrize("structures", [[copper()], [water_molecule(), water_box(2), Structure([2], [[0.0, 0.0, 0.0]])]])
def test_padding_keeps_real_edges_and_offsets(structures: list[Structure]) -> None:
    batch = Batch.of(structures)
    graph = neighbor_list(batch, CUTOFF)
    padded = graph.padded(graph.capacity + 5).padded(graph.capacity + 12)
    assert (padded.capacity, padded.num_edges) == (graph.capacity + 12, graph.num_edges)
    real = slice(0, graph.num_edges)
    for name in ("receivers_E", "senders_E", "shifts_E3", "transpose_E"):
        assert torch.equal(getattr(padded, name)[real], getattr(graph, name)), name
    assert torch.equal(padded.receiver_offsets, graph.receiver_offsets)
    assert torch.equal(padded.sender_offsets, graph.sender_offsets)
    assert bool((padded.receivers_E.diff() >= 0).all())
    assert torch.equal(padded.transpose_E.sort().values, torch.arange(padded.capacity))
    assert bool((padded.senders_E[padded.transpose_E].diff() >= 0).all())
    vectors = edge_vectors(batch, padded)
    assert torch.equal(vectors[real], edge_vectors(batch, graph))
    assert bool((vectors[graph.num_edges :].norm(dim=1) == CUTOFF).all())


def test_padding_of_a_graph_without_edges() -> None:
    batch = Batch.of([Structure([2], [[0.0, 0.0, 0.0]])])
    padded = neighbor_list(batch, CUTOFF).padded(4)
    assert (padded.num_edges, padded.capacity, padded.receiver_offsets.tolist()) == (0, 4, [0, 0])
    assert bool((edge_vectors(batch, padded).norm(dim=1) == CUTOFF).all())


def test_padding_that_cannot_be() -> None:
    graph = neighbor_list(Batch.of([copper()]), CUTOFF)
    with pytest.raises(ValueError, match=f"Capacity 3 is below the {graph.num_edges} edges"):
        graph.padded(3)
    empty = neighbor_list(Batch.of([]), CUTOFF)
    assert empty.padded(0).capacity == 0
    with pytest.raises(ValueError, match="without atoms cannot be padded"):
        empty.padded(1)


def test_gradients_of_padded_vectors_reach_real_edges_only() -> None:
    """The derivative of the sum of squared lengths, by hand: twice the in minus out vectors of each atom."""
    batch = Batch.of([water_box(2)])
    graph = neighbor_list(batch, CUTOFF).padded(2000)
    positions = batch.positions_N3.clone().requires_grad_()
    cell = batch.cell_B33.clone().requires_grad_()
    vectors = edge_vectors(replace(batch, positions_N3=positions, cell_B33=cell), graph)
    vectors.square().sum().backward()
    real = edge_vectors(batch, graph)[: graph.num_edges]
    receivers, senders = graph.receivers_E[: graph.num_edges], graph.senders_E[: graph.num_edges]
    expected = torch.zeros_like(batch.positions_N3).index_add(0, receivers, 2 * real).index_add(0, senders, -2 * real)
    assert positions.grad is not None and torch.allclose(positions.grad, expected)
    shifts = graph.shifts_E3[: graph.num_edges].double()
    assert cell.grad is not None and torch.allclose(cell.grad[0], 2 * shifts.T @ real)


def test_vectors_round_the_same_in_lists_of_any_length() -> None:
    batch = everything()
    graph = neighbor_list(batch, CUTOFF)
    vectors = edge_vectors(batch, graph)
    for edge in range(0, graph.num_edges, 29):
        keep = torch.arange(graph.num_edges) == edge
        assert torch.equal(edge_vectors(batch, graph.select(keep)), vectors[edge : edge + 1])
    assert graph_module.displacements(batch, graph.senders_E, graph.receivers_E, graph.shifts_E3).dtype == torch.float64
