"""Truths, errors and the edges of repeated cells."""

import numpy as np
import pytest
import torch

from mosso.bench.cases import SYSTEMS, repeated, water
from mosso.bench.problems import Answer, Problem, error_bars, repeated_graph
from mosso.data.structure import Batch
from mosso.engine.potential import Potential
from mosso.graph.graph import Graph, edge_vectors
from mosso.graph.neighbors import neighbor_list


@pytest.mark.parametrize("repeats", [(1, 1, 2), (3, 2, 1), (2, 2, 2)])
def test_repeated_edges_are_those_of_a_search(repeats: tuple[int, int, int]) -> None:
    box, cutoff = water(2), 7.0  # reaches beyond the next cell
    batch = Batch.of([repeated(box, repeats)])
    got = repeated_graph(neighbor_list(Batch.of([box]), cutoff), repeats)
    want = neighbor_list(batch, cutoff)
    assert got.num_edges == want.num_edges
    assert torch.equal(got.receiver_offsets, want.receiver_offsets)

    def rows(graph: Graph) -> torch.Tensor:
        vectors = edge_vectors(batch, graph).round(decimals=6) + 0.0
        table = torch.cat([graph.receivers_E[:, None], graph.senders_E[:, None], vectors], dim=1)
        return torch.tensor(sorted(table.tolist()))

    torch.testing.assert_close(rows(got), rows(want), rtol=0, atol=2e-6)


def test_the_truth_of_a_large_system_is_that_of_its_cell(exact: Potential) -> None:
    problem = Problem("8xW24", exact)
    assert SYSTEMS["8xW24"].repeats == (2, 2, 2)
    answer = Answer.of(exact.evaluate(problem.batch, problem.graph, stress=True))
    errors = answer.errors(problem.truth)
    assert set(errors) == {"energy", "forces", "stress"}
    assert max(errors.values()) < 1e-10


def test_errors_are_relative() -> None:
    truth = Answer(np.array([2.0, -4.0]), np.ones((3, 3)), np.ones((2, 3, 3)))
    off = Answer(np.array([2.0, -4.4]), 1.5 * np.ones((3, 3)), None)
    assert off.errors(truth) == pytest.approx({"energy": 0.1, "forces": 0.5})


def test_bars_follow_the_rounding_of_the_reference() -> None:
    assert error_bars("fp32", {"energy": 1e-9, "forces": 3e-6}) == {"energy": 1e-7, "forces": 6e-6, "stress": 1e-6}
    assert error_bars("tf32", {"energy": 1e-9, "forces": 3e-6})["forces"] == 3e-3


def test_atoms_move_between_calls(exact: Potential) -> None:
    problem = Problem("C8", exact)
    first, second = problem.moved().positions_N3, problem.moved().positions_N3
    assert 0 < float((first - second).abs().max()) < 1e-3
