"""Batches of many structures: sized by edges, halved where memory runs out."""

from types import SimpleNamespace

import pytest
import torch
from ase.build import bulk

import mosso
from mosso.data.structure import BadStructure
from mosso.engine.batching import EDGES_AT_ONCE, estimated_edges, in_batches

POTENTIAL = SimpleNamespace(device=torch.device("cpu"), cutoff=5.0, precision=SimpleNamespace(name="fp32"), check=lambda _: None)


def copper(*sizes: int) -> list[mosso.Structure]:
    return [mosso.Structure.of(bulk("Cu", "fcc", a=3.6, cubic=True) * (n, n, n)) for n in sizes]


def test_batches_keep_the_order_and_the_budget() -> None:
    structures = copper(1, 2, 1, 5, 1, 1, 4, 3)
    cut = list(in_batches(POTENTIAL, structures, list))  # type: ignore[arg-type]
    assert [structure for batch in cut for structure in batch] == structures
    assert 1 < len(cut) < len(structures)
    for batch in cut:
        assert len(batch) == 1 or sum(estimated_edges(structure, 5.0) for structure in batch) <= EDGES_AT_ONCE["cpu"]


def test_estimate_is_that_of_the_density() -> None:
    assert estimated_edges(copper(1)[0], 5.0) == pytest.approx(4 * 4.19 * 125 / 11.66, rel=0.01)


def test_a_batch_too_large_for_memory_is_halved_and_nothing_is_lost() -> None:
    structures = copper(*[1] * 13)
    tried: list[int] = []

    def work(batch: list[mosso.Structure]) -> list[int]:
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [structures.index(structure) for structure in batch]

    found = [number for batch in in_batches(POTENTIAL, structures, work, 10**6) for number in batch]  # type: ignore[arg-type]
    assert found == list(range(13))
    assert tried[:3] == [13, 6, 3]
    assert max(tried[3:]) <= 3, "a size that failed is not tried again"


def test_one_structure_that_does_not_fit_is_an_error_that_says_so() -> None:
    def work(batch: list[mosso.Structure]) -> list[int]:
        if any(len(structure) > 4 for structure in batch):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [0] * len(batch)

    done = []
    with pytest.raises(ValueError, match="Structure 2: its 32 atoms do not fit into the memory of cpu under fp32"):
        done.extend(in_batches(POTENTIAL, copper(1, 1, 2), work))  # type: ignore[arg-type]
    assert sum(len(batch) for batch in done) == 2


def test_other_errors_pass_through() -> None:
    def work(batch: list[mosso.Structure]) -> list[int]:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(in_batches(POTENTIAL, copper(1), work))  # type: ignore[arg-type]


def test_a_bad_structure_has_its_number_among_all() -> None:
    structures = copper(*[1] * 13)

    def work(batch: list[mosso.Structure]) -> list[int]:
        if structures[11] in batch:
            raise BadStructure(batch.index(structures[11]), "it is broken.")
        return [0] * len(batch)

    done = []
    with pytest.raises(BadStructure, match="^Structure 11: it is broken.$") as raised:
        done.extend(in_batches(POTENTIAL, structures, work, 1000))  # type: ignore[arg-type]
    assert raised.value.number == 11
    assert 1 < len(done[0]) < 11 and sum(len(batch) for batch in done) <= 11


def test_what_the_potential_refuses_is_refused_before_any_work() -> None:
    def check(structures: list[mosso.Structure]) -> None:
        raise BadStructure(len(structures) - 1, "it is broken.")

    def work(batch: list[mosso.Structure]) -> list[int]:
        raise AssertionError("nothing is to be computed")

    with pytest.raises(BadStructure, match="Structure 2: it is broken"):
        list(in_batches(SimpleNamespace(**vars(POTENTIAL) | {"check": check}), copper(1, 1, 1), work, 1))  # type: ignore[arg-type]
