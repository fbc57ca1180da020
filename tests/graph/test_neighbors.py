"""Neighbour lists against each other, against a plain search over images, and against ASE."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.neighborlist import neighbor_list as ase_neighbor_list
from systems import awkward, copper, copper_primitive, dimer, water_box, water_molecule

from mosso.data.readers import to_atoms
from mosso.data.structure import Batch, Structure
from mosso.graph import neighbors
from mosso.graph.graph import Graph, edge_vectors
from mosso.graph.neighbors import neighbor_list

AWKWARD = awkward()
CUTOFFS = (0.8, 3.0, 6.0)
Edge = tuple[int, ...]


def edges(graph: Graph) -> list[Edge]:
    """(receiver, sender, shift) in the order of the graph."""
    return list(map(tuple, torch.cat([graph.receivers_E[:, None], graph.senders_E[:, None], graph.shifts_E3], 1).tolist()))


def assert_same(a: Graph, b: Graph) -> None:
    for name in ("receivers_E", "senders_E", "shifts_E3", "receiver_offsets", "transpose_E", "sender_offsets"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert (a.num_edges, a.cutoff) == (b.num_edges, b.cutoff)


def oracle(structure: Structure, cutoff: float) -> set[Edge]:
    """Every pair in every image that could matter, in the given coordinates: no wrapping, no reduction."""
    positions, cell, pbc = structure.positions, structure.cell, structure.pbc
    if len(positions) == 0:
        return set()
    reach = np.linalg.norm(positions.max(0) - positions.min(0)) + cutoff
    inverse = np.zeros((3, 3))
    inverse[:, pbc] = np.linalg.pinv(cell[pbc])  # components of a vector along the periodic lattice vectors
    most = [int(reach * np.linalg.norm(inverse[:, axis])) + 1 if pbc[axis] else 0 for axis in range(3)]
    shifts = np.array(list(itertools.product(*[range(-m, m + 1) for m in most])))
    found = set()
    for receiver, sender in itertools.product(range(len(positions)), repeat=2):
        lengths = np.linalg.norm(positions[receiver] - positions[sender] + shifts @ cell, axis=1)
        found |= {(receiver, sender, *map(int, s)) for s in shifts[lengths < cutoff] if receiver != sender or s.any()}
    return found


@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("name", AWKWARD)
def test_searches_agree(name: str, cutoff: float) -> None:
    batch = Batch.of([AWKWARD[name]])
    assert_same(neighbor_list(batch, cutoff, "vesin"), neighbor_list(batch, cutoff, "brute"))


@pytest.mark.parametrize("cutoff", [0.8, 3.0, 4.5])
@pytest.mark.parametrize("name", [name for name in AWKWARD if "copper" not in name])
def test_brute_force_against_plain_search(name: str, cutoff: float) -> None:
    graph = neighbor_list(Batch.of([AWKWARD[name]]), cutoff, "brute")
    found = edges(graph)
    assert len(found) == len(set(found))
    assert set(found) == oracle(AWKWARD[name], cutoff)


@pytest.mark.parametrize("method", ["vesin", "brute"])
@pytest.mark.parametrize("name", [name for name in AWKWARD if len(AWKWARD[name]) and name != "two atoms far apart"])
def test_against_ase(name: str, method: str) -> None:
    structure, cutoff = AWKWARD[name], 4.0
    graph = neighbor_list(Batch.of([structure]), cutoff, method)
    sender, receiver, shift = ase_neighbor_list("ijS", to_atoms(structure), cutoff)
    assert sorted(edges(graph)) == sorted((int(r), int(s), *map(int, t)) for s, r, t in zip(sender, receiver, shift, strict=True))


def test_known_numbers_of_neighbors() -> None:
    primitive = Batch.of([copper_primitive()])
    nearest = 3.61 / np.sqrt(2)
    for cutoff, expected in ((nearest - 0.01, 0), (nearest + 0.01, 12), (3.61 + 0.01, 18)):
        assert neighbor_list(primitive, cutoff).num_edges == expected
    molecules = neighbor_list(Batch.of([water_molecule(), water_molecule()]), 1.0)
    assert edges(molecules) == [(a, b, 0, 0, 0) for a, b in ((0, 1), (0, 2), (1, 0), (2, 0), (3, 4), (3, 5), (4, 3), (5, 3))]


@pytest.mark.parametrize("method", ["vesin", "brute"])
def test_cutoff_is_strict(method: str) -> None:
    def count(structure: Structure) -> int:
        return neighbor_list(Batch.of([structure]), 3.0, method).num_edges

    assert count(AWKWARD["dimer just inside"]) == 2
    assert count(AWKWARD["dimer at the cutoff"]) == 0
    assert count(AWKWARD["dimer just outside"]) == 0


@pytest.mark.parametrize("method", ["vesin", "brute"])
def test_vectors_point_from_sender_to_receiver_and_are_short(method: str) -> None:
    batch = Batch.of(AWKWARD.values())
    graph = neighbor_list(batch, 3.0, method)
    vectors = edge_vectors(batch, graph)
    assert graph.num_edges > 500
    assert float(vectors.norm(dim=1).max()) <= 3.0
    pair = Batch.of([dimer(1.0)])
    vector = edge_vectors(pair, neighbor_list(pair, 3.0, method))[0]  # the edge into atom 0
    assert torch.allclose(vector, -torch.tensor([2.0, 3.0, 6.0], dtype=torch.float64) / 7)


@pytest.mark.parametrize("method", ["vesin", "brute"])
@pytest.mark.parametrize("name", ["triclinic", "skewed", "left-handed", "slab without third vector", "chain"])
def test_moving_atoms_by_lattice_vectors_changes_shifts_only(name: str, method: str) -> None:
    structure = AWKWARD[name]
    jumps = np.random.default_rng(0).integers(-30, 31, (len(structure), 3)) * structure.pbc
    moved = replace(structure, positions=structure.positions + jumps @ structure.cell)
    before, after = Batch.of([structure]), Batch.of([moved])
    old, new = neighbor_list(before, 4.0, method), neighbor_list(after, 4.0, method)
    jumps_N3 = torch.as_tensor(jumps)
    expected = old.shifts_E3 - jumps_N3[old.receivers_E] + jumps_N3[old.senders_E]
    assert_same(new, Graph.from_edges(old.senders_E, old.receivers_E, expected, len(structure), 4.0))

    def multiset(batch: Batch, graph: Graph) -> np.ndarray:
        rows = torch.cat([graph.receivers_E[:, None], graph.senders_E[:, None], edge_vectors(batch, graph)], 1).numpy().round(7)
        return rows[np.lexsort(rows.T)]

    assert np.allclose(multiset(before, old), multiset(after, new), atol=1e-6)


@pytest.mark.parametrize("method", ["vesin", "brute"])
def test_batch_is_its_systems(method: str) -> None:
    structures = list(AWKWARD.values())
    together = neighbor_list(Batch.of(structures), 3.0, method)
    expected, start = [], 0
    for structure in structures:
        alone = edges(neighbor_list(Batch.of([structure]), 3.0, method))
        expected += [(r + start, s + start, *shift) for r, s, *shift in alone]
        start += len(structure)
    assert edges(together) == expected
    assert together.receiver_offsets.shape == (start + 1,)


@pytest.mark.parametrize("method", ["auto", "vesin", "brute"])
def test_nothing_in_nothing_out(method: str) -> None:
    for batch in (Batch.of([]), Batch.of([AWKWARD["no atoms"]] * 2)):
        graph = neighbor_list(batch, 3.0, method)
        assert (graph.num_edges, graph.receiver_offsets.tolist(), graph.shifts_E3.shape) == (0, [0], (0, 3))
        assert edge_vectors(batch, graph).shape == (0, 3)


def test_brute_force_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch.of([AWKWARD["triclinic"], copper()])
    whole = neighbor_list(batch, 4.0, "brute")
    for size in (1, 37, 1000):  # one row and one image at a time; some; several rows
        monkeypatch.setattr(neighbors, "MAX_BRUTE_CHUNK", size)
        assert_same(neighbor_list(batch, 4.0, "brute"), whole)


def test_extreme_skew_needs_few_images() -> None:
    """The same lattice in a far longer basis gives the same neighbours; without reduction this runs for hours."""
    short = AWKWARD["triclinic"]
    change = np.array([[1, 0, 0], [9000, 1, 0], [-70000, 8000, 1]])
    long = replace(short, cell=change @ short.cell)
    for method in ("vesin", "brute"):
        a, b = (neighbor_list(Batch.of([s]), 3.0, method) for s in (short, long))
        assert a.num_edges > 20
        lattice_shifts = b.shifts_E3.numpy() @ change
        resorted = Graph.from_edges(b.senders_E, b.receivers_E, torch.as_tensor(lattice_shifts), len(short), 3.0)
        assert_same(resorted, a)


def test_three_vectors_whose_sum_is_short() -> None:
    """Each pair is as short as it gets, the three together are not: the search must take the sum of all as a vector."""
    cell = np.array([[300.0, 0.0, 1.0], [-150.0, 150.0 * np.sqrt(3), 1.0], [-150.0, -150.0 * np.sqrt(3), 1.0]])
    reduced, transform = neighbors.reduce_lattice(cell, np.ones(3, dtype=bool))
    assert np.allclose(transform @ cell, reduced) and abs(round(np.linalg.det(transform))) == 1
    assert np.linalg.norm(reduced, axis=1).min() == pytest.approx(3.0)
    wanted = reduced.copy()
    reduced[:] = 0.0
    assert np.array_equal(neighbors.reduce_lattice(cell, np.ones(3, dtype=bool))[0], wanted), "what is remembered is not what callers hold"


def test_atoms_absurdly_far_apart_do_not_end_the_process() -> None:
    structure = Structure([1, 1, 1], [[0.0, 0.0, 0.0], [1.0, 1.0, 1e15], [1.0, 0.0, 0.0]])
    assert edges(neighbor_list(Batch.of([structure]), 5.0, "vesin")) == [(0, 2, 0, 0, 0), (2, 0, 0, 0, 0)]


def test_positions_that_need_a_gradient() -> None:
    batch = Batch.of([water_box(2)])
    graph = neighbor_list(replace(batch, positions_N3=batch.positions_N3.clone().requires_grad_()), 3.0)
    assert_same(graph, neighbor_list(batch, 3.0))


@pytest.mark.parametrize("method", ["vesin", "brute"])
def test_atoms_on_top_of_each_other(method: str) -> None:
    cell = 4.0 * np.eye(3)
    first = Structure([1], [[0.0, 0.0, 0.0]])
    twice = Structure([1, 6, 8], [[0.1, 0.0, 0.0], [2.0, 0.0, 0.0], [4.1, 4.0, -3.9995]], cell, True)
    twice_in_place = replace(twice, positions=[[0.1, 0.0, 0.0], [2.0, 0.0, 0.0], [4.1, 4.0, -4.0]])
    for structure in (twice, twice_in_place):
        with pytest.raises(ValueError, match="Structure 1: atoms 0 and 2 are .* apart: remove one of the two"):
            neighbor_list(Batch.of([first, structure]), 3.0, method)
    near = replace(twice, positions=[[0.1, 0.0, 0.0], [2.0, 0.0, 0.0], [4.1, 4.0, -3.998]])
    assert neighbor_list(Batch.of([first, near]), 1.0, method).num_edges == 2
    tiny = Structure([1], [[0.0, 0.0, 0.0]], np.diag([3.0, 3.0, 5e-4]), True)
    with pytest.raises(ValueError, match="Structure 0: atom 0 is .* own periodic image"):
        neighbor_list(Batch.of([tiny]), 3.0, method)


@pytest.mark.parametrize("method", ["vesin", "brute"])
def test_positions_that_are_not_finite(method: str) -> None:
    batch = Batch.of([water_molecule(), water_molecule()])
    batch.positions_N3[4, 1] = float("nan")
    with pytest.raises(ValueError, match="Structure 1: the position of atom 1 is not finite"):
        neighbor_list(batch, 3.0, method)


@pytest.mark.parametrize("cutoff", [0.0, -1.0, float("nan"), float("inf")])
def test_unusable_cutoff(cutoff: float) -> None:
    with pytest.raises(ValueError, match="positive, finite"):
        neighbor_list(Batch.of([water_molecule()]), cutoff)


def test_unknown_method() -> None:
    with pytest.raises(ValueError, match="choose auto, vesin or brute"):
        neighbor_list(Batch.of([water_molecule()]), 3.0, "octree")  # type: ignore[arg-type]
