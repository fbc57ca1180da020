"""Reading, splitting, statistics, edges and batches."""

import dataclasses

import numpy as np
import pytest
import torch
from train.toy import CUTOFF, E0, SPECIES

from mosso.data.structure import Batch
from mosso.graph.graph import Graph, edge_vectors
from mosso.train.batching import BatchSampler, fill
from mosso.train.config import DataConfig
from mosso.train.dataset import Dataset, structure
from mosso.train.source import read_frames, split_by_task
from mosso.train.statistics import Statistics, fit_atomic_energies


def all_pairs_graph(structures, cutoff):
    """The graph of non-periodic structures, pair by pair."""
    batch = Batch.of(structures)
    senders, receivers = [], []
    for first, last in zip(batch.offsets, batch.offsets[1:], strict=False):
        for r in range(first, last):
            for s in range(first, last):
                if r != s and float((batch.positions_N3[r] - batch.positions_N3[s]).norm()) < cutoff:
                    senders.append(s)
                    receivers.append(r)
    index = torch.tensor([senders, receivers], dtype=torch.int64)
    shifts = torch.zeros((len(senders), 3), dtype=torch.int64)
    return batch, Graph.from_edges(index[0], index[1], shifts, batch.num_atoms, cutoff)


def assert_same(ours, theirs):
    for field in dataclasses.fields(ours):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype and torch.equal(a, b), field.name
        else:
            assert a == b, field.name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_assembled_batch_and_graph_equal_those_built_from_structures(frames, dataset, seed):
    chosen = np.random.default_rng(seed).permutation(len(frames))[: 3 + 5 * seed]
    labelled = dataset.assemble(chosen)
    batch, graph = all_pairs_graph([structure(frames, f) for f in chosen], CUTOFF)
    assert_same(labelled.batch, batch)
    assert_same(labelled.graph, graph)
    assert torch.equal(torch.tensor(SPECIES)[labelled.species_N], batch.numbers_N)
    assert labelled.energy_B.tolist() == frames.energy_F[chosen].tolist()
    expected = np.concatenate([frames.forces_N3[frames.offsets[f] : frames.offsets[f + 1]] for f in chosen])
    assert np.array_equal(labelled.forces_N3.numpy(), expected)
    assert labelled.group_B.tolist() == frames.group_F[chosen].tolist()


def test_assembled_graph_equals_the_neighbour_list_of_every_frame(frames, dataset):
    neighbors = pytest.importorskip("mosso.graph.neighbors")
    for index in range(len(frames)):
        labelled = dataset.assemble(np.array([index]))
        batch = Batch.of([structure(frames, index)])
        assert_same(labelled.batch, batch)
        assert_same(labelled.graph, neighbors.neighbor_list(batch, CUTOFF))


def test_periodic_frames_keep_their_shifts(frames):
    neighbors = pytest.importorskip("mosso.graph.neighbors")
    cells = np.broadcast_to(np.diag([4.0, 4.5, 5.0]), (len(frames), 3, 3)).copy()
    periodic = dataclasses.replace(frames, cell_F33=cells, pbc_F3=np.ones((len(frames), 3), dtype=bool))
    chosen = np.array([7, 2, 11])
    labelled = Dataset(periodic, SPECIES, 3.0, torch.device("cpu")).assemble(chosen)
    batch = Batch.of([structure(periodic, f) for f in chosen])
    graph = neighbors.neighbor_list(batch, 3.0)
    assert graph.shifts_E3.any()
    assert torch.equal(edge_vectors(labelled.batch, labelled.graph), edge_vectors(batch, graph))


def test_no_edges_at_all(frames, dataset):
    single = np.flatnonzero(frames.num_atoms_F == 1)
    labelled = dataset.assemble(single)
    assert labelled.graph.num_edges == 0 and labelled.graph.receiver_offsets.tolist() == [0] * (len(single) + 1)


def test_every_frame_once_per_epoch_within_the_budget(dataset):
    sampler = BatchSampler(np.arange(len(dataset)), dataset.num_edges_F, max_edges=150, seed=3)
    epochs = []
    for epoch in range(3):
        batches = [sampler.next()]
        while sampler.position < len(sampler.batches):
            batches.append(sampler.next())
        assert sampler.epoch == epoch and len(batches) > 3
        assert all(dataset.num_edges_F[b].sum() <= 150 for b in batches)
        assert sorted(np.concatenate(batches)) == list(range(len(dataset)))
        # No batch stops short while its successor would still fit.
        pairs = zip(batches, batches[1:], strict=False)
        assert all(dataset.num_edges_F[a].sum() + dataset.num_edges_F[b[0]] > 150 for a, b in pairs)
        epochs.append(np.concatenate(batches).tolist())
    assert epochs[0] != epochs[1] != epochs[2]


def test_sampler_continues_anywhere(dataset):
    make = lambda: BatchSampler(np.arange(len(dataset)), dataset.num_edges_F, max_edges=150, seed=5)  # noqa: E731
    whole, sequence = make(), []
    for _ in range(25):
        sequence.append((whole.epoch, whole.position, whole.next().tolist()))
    for epoch, position, batch in sequence[::6]:
        other = make()
        other.seek(epoch, position)
        assert other.next().tolist() == batch


def test_a_frame_above_the_budget_is_refused():
    with pytest.raises(ValueError, match="raise max_edges"):
        fill(np.arange(3), np.array([10, 200, 5]), 100)


def test_split_leaves_no_task_on_both_sides(frames):
    for seed in range(5):
        training, validation = split_by_task(frames, 0.3, seed)
        assert sorted([*training, *validation]) == list(range(len(frames)))
        assert not set(frames.task_F[training]) & set(frames.task_F[validation])
        assert (frames.num_atoms_F[validation] > 1).all(), "isolated atoms define E0 and stay in training"
        assert set(frames.group_F[validation]) == {1, 2}
    assert split_by_task(frames, 0.3, 1)[1].tolist() == split_by_task(frames, 0.3, 1)[1].tolist()
    assert split_by_task(frames, 0.3, 1)[1].tolist() != split_by_task(frames, 0.3, 2)[1].tolist()


def test_statistics(frames, dataset):
    training, _ = split_by_task(frames, 0.2, 0)
    statistics = Statistics.of(frames, training, dataset.num_edges_F, SPECIES)
    assert np.allclose(statistics.atomic_energies, [E0[z] for z in SPECIES], atol=1e-9)
    atoms = np.concatenate([np.arange(frames.offsets[f], frames.offsets[f + 1]) for f in training])
    assert statistics.rms_forces == pytest.approx(np.sqrt((frames.forces_N3[atoms] ** 2).mean()))
    edges = sum(all_pairs_graph([structure(frames, f)], CUTOFF)[1].num_edges for f in training)
    assert (statistics.edges, statistics.atoms) == (edges, len(atoms))
    assert statistics.avg_num_neighbors == pytest.approx(edges / len(atoms))
    bare = [frames.energy_F[f] - sum(E0[int(z)] for z in structure(frames, f).numbers) for f in training]
    assert statistics.mean_energy == pytest.approx(np.mean(bare / frames.num_atoms_F[training]))
    assert Statistics.from_plain(statistics.plain()) == statistics


def test_atomic_energies_from_compositions_alone():
    counts = np.array([[2, 0, 1], [4, 1, 0], [0, 1, 2], [2, 1, 1], [1, 0, 0]], dtype=float)
    e0 = np.array([E0[z] for z in SPECIES])
    assert np.allclose(fit_atomic_energies(counts, counts @ e0, SPECIES), e0)
    with pytest.raises(ValueError, match="C: take it out"):
        fit_atomic_energies(counts[[0, 4]], np.zeros(2), SPECIES)


def test_unknown_elements_are_named(frames):
    with pytest.raises(ValueError, match="O"):
        Statistics.of(frames, np.arange(len(frames)), np.zeros(len(frames)), (1, 6))


def test_broken_files_are_refused(npz, tmp_path):
    arrays = dict(np.load(npz))
    for change, message in (({"energies": None}, "no array called energies"), ({"task": arrays["task"][:-1]}, "`task` has shape")):
        kept = {k: v for k, v in (arrays | change).items() if v is not None}
        np.savez(tmp_path / "broken.npz", **kept)
        with pytest.raises(ValueError, match=message):
            read_frames(DataConfig(path=tmp_path / "broken.npz"))
    forces = arrays["forces"].copy()
    forces[3, 1] = np.nan
    np.savez(tmp_path / "broken.npz", **(arrays | {"forces": forces}))
    with pytest.raises(ValueError, match="not finite"):
        read_frames(DataConfig(path=tmp_path / "broken.npz"))


def test_extxyz_gives_the_same_frames(frames, tmp_path):
    if not hasattr(pytest.importorskip("mosso.data.readers"), "read_structures"):
        pytest.skip("no reader for extxyz yet")
    from ase import Atoms
    from ase.io import write

    images = []
    for index in range(len(frames)):
        one = structure(frames, index)
        atoms = Atoms(one.numbers, one.positions)
        atoms.info |= {"ref_energy": frames.energy_F[index], "task": int(frames.task_F[index])}
        atoms.arrays["ref_forces"] = frames.forces_N3[frames.offsets[index] : frames.offsets[index + 1]]
        images.append(atoms)
    write(tmp_path / "toy.extxyz", images, format="extxyz")
    read = read_frames(DataConfig(path=tmp_path / "toy.extxyz", energy_key="ref_energy", forces_key="ref_forces"))
    assert np.array_equal(read.numbers_N, frames.numbers_N) and np.array_equal(read.offsets, frames.offsets)
    assert np.allclose(read.forces_N3, frames.forces_N3, atol=1e-6) and np.allclose(read.energy_F, frames.energy_F, atol=1e-6)
    assert len(set(zip(read.task_F.tolist(), frames.task_F.tolist(), strict=True))) == len(set(frames.task_F.tolist()))
