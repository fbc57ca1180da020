"""The reference ops: first and second derivatives, and shapes chosen to hurt."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mosso import kernels
from mosso.graph.graph import Graph
from mosso.kernels import dispatch
from mosso.math.coupling import contraction_table, convolution_paths, symmetric_coupling
from mosso.math.harmonics import spherical_harmonics


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def sorted_edges(senders: Tensor, receivers: Tensor, nodes: int) -> tuple[Tensor, ...]:
    """Senders, receivers, their row offsets and the transpose, as the op takes them."""
    return Graph.from_edges(senders, receivers, torch.zeros(len(senders), 3, dtype=torch.int64), nodes, cutoff=1.0).rows


def table_of(max_ell: int, degrees: tuple[int, ...], order: int):
    return contraction_table([[symmetric_coupling(max_ell, d, nu) for nu in range(1, order + 1)] for d in degrees])


@pytest.mark.parametrize("deterministic", [False, True])
def test_radial_networks_in_deterministic_mode(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU they then run in products whose rows do not depend on how many there are; the numbers are the same."""
    calls: list[int] = []
    plain = dispatch.path_linear
    monkeypatch.setattr(dispatch, "preferred", lambda op, device: "triton")
    monkeypatch.setattr(dispatch, "path_linear", lambda x, *rest: calls.append(len(x)) or plain(x, *rest, implementation="reference"))
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    features, weights = rand(5, 3), [rand(3, 4), rand(4, 2)]
    found = kernels.radial_mlp(features, weights, 1.7)
    assert calls == ([5, 5] if deterministic else [])
    hidden = 1.7 * torch.nn.functional.silu(features @ weights[0] / 3**0.5)
    torch.testing.assert_close(found, hidden @ weights[1] / 2.0, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("degrees_in", [(0,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize(("nodes", "edges", "channels"), [(3, 7, 2), (1, 4, 1), (4, 0, 3)])
def test_edge_convolution_is_twice_differentiable(degrees_in: tuple[int, ...], nodes: int, edges: int, channels: int) -> None:
    paths = convolution_paths(degrees_in, 2)
    generator = torch.Generator().manual_seed(1)
    edge_index = sorted_edges(*torch.randint(nodes, (2, edges), generator=generator), nodes)
    x = rand(nodes, sum(2 * d + 1 for d in degrees_in), channels).requires_grad_()
    vectors = rand(edges, 3).requires_grad_()
    weights = rand(edges, len(paths), channels).requires_grad_()

    def op(x: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
        harmonics = spherical_harmonics(vectors / vectors.norm(dim=1, keepdim=True), 2)
        return kernels.edge_convolution(x, harmonics, weights, *edge_index, degrees_in, paths)

    assert op(x, vectors, weights).shape == (nodes, sum(2 * p.l_out + 1 for p in paths), channels)
    if edges:
        assert torch.autograd.gradcheck(op, (x, vectors, weights))
        assert torch.autograd.gradgradcheck(op, (x, vectors, weights))


def test_edge_convolution_against_a_loop() -> None:
    """One edge at a time in numpy, from the definition."""
    degrees_in, nodes, edges, channels = (0, 1), 4, 9, 3
    paths = convolution_paths(degrees_in, 3)
    edge_index = sorted_edges(*torch.randint(nodes, (2, edges), generator=torch.Generator().manual_seed(0)), nodes)
    senders, receivers = edge_index[:2]
    x, vectors, weights = rand(nodes, 4, channels), rand(edges, 3), rand(edges, len(paths), channels)
    harmonics = spherical_harmonics(vectors / vectors.norm(dim=1, keepdim=True), 3)
    got = kernels.edge_convolution(x, harmonics, weights, *edge_index, degrees_in, paths)
    parts = got.split([2 * path.l_out + 1 for path in paths], dim=1)
    where = {0: slice(0, 1), 1: slice(1, 4), 2: slice(4, 9), 3: slice(9, 16)}
    for p, path in enumerate(paths):
        want = np.zeros((nodes, 2 * path.l_out + 1, channels))
        for e in range(edges):
            features = x[senders[e], where[path.l_in]].numpy()
            message = np.einsum("ijk,ic,j->kc", path.coupling, features, harmonics[e, where[path.l_edge]].numpy())
            want[receivers[e]] += message * weights[e, p].numpy()
        np.testing.assert_allclose(parts[p].numpy(), want, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("species", [[0, 1, 1, 0, 2], [2], []])
def test_symmetric_contraction(order: int, species: list[int]) -> None:
    degrees, channels = (0, 1), 2
    table = table_of(2, degrees, order)
    species_N = torch.tensor(species, dtype=torch.int64)
    groups = kernels.SpeciesGroups.of(species_N)
    a = rand(len(species), 9, channels).requires_grad_()
    weights = [rand(3, matrix.shape[1], channels, seed=i).requires_grad_() for i, (_, matrix) in enumerate(table.mix)]

    def op(a: Tensor, *weights: Tensor) -> Tensor:
        return kernels.symmetric_contraction(a, kernels.fold_contraction(weights, table), groups, table)

    got = op(a, *weights)
    assert got.shape == (len(species), 4, channels)
    start = 0
    want = torch.zeros_like(got)
    for d in degrees:
        for nu in range(1, order + 1):
            u = torch.as_tensor(symmetric_coupling(2, d, nu))
            weight = weights[d * order + nu - 1][species_N]
            letters = "uvw"[:nu]
            factors = ",".join(f"n{letter}c" for letter in letters)
            term = torch.einsum(f"m{letters}k,nkc,{factors}->nmc", u, weight, *[a] * nu)
            want[:, start : start + 2 * d + 1] += term
        start += 2 * d + 1
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    if species:
        assert torch.autograd.gradcheck(op, (a, *weights))
        assert torch.autograd.gradgradcheck(op, (a, *weights))


def test_species_linear_against_a_loop() -> None:
    species = torch.tensor([2, 0, 2, 1])
    x, weights = rand(4, 4, 3), [rand(3, 3, 5, seed=1), rand(3, 3, 5, seed=2)]
    got = kernels.species_path_linear(x, weights, (0, 1), ((0,), (1,)), kernels.SpeciesGroups.of(species))
    for n in range(4):
        torch.testing.assert_close(got[n, :1], x[n, :1] @ weights[0][species[n]])
        torch.testing.assert_close(got[n, 1:], x[n, 1:] @ weights[1][species[n]])


@pytest.mark.parametrize("species", [[2, 0, 2, 1], [1], []])
def test_path_linear_against_a_loop(species: list[int]) -> None:
    degrees, starts = (1, 0), ((0, 5), (4, 3))  # row 8 belongs to nobody
    species_N, bias = torch.tensor(species, dtype=torch.int64), rand(3, 5, seed=3)
    x, weights = rand(len(species), 9, 2), [rand(3, 4, 5, seed=1), rand(3, 4, 5, seed=2)]
    groups = kernels.SpeciesGroups.of(species_N)
    alike = kernels.path_linear(x, [weight[1] for weight in weights], degrees, starts, bias_SD=bias, species_N=species_N)
    own = kernels.species_path_linear(x, weights, degrees, starts, groups, bias_SD=bias)
    assert alike.shape == own.shape == (len(species), 4, 5)
    for n, kind in enumerate(species):
        for got, (vectors, scalars) in ((alike, [weight[1] for weight in weights]), (own, [weight[kind] for weight in weights])):
            for m in range(3):
                torch.testing.assert_close(got[n, m], x[n, m] @ vectors[:2] + x[n, 5 + m] @ vectors[2:])
            torch.testing.assert_close(got[n, 3], x[n, 4] @ scalars[:2] + x[n, 3] @ scalars[2:] + bias[kind])


def test_non_contiguous_inputs() -> None:
    x = rand(3, 2, 4).transpose(1, 2)
    assert not x.is_contiguous()
    weights = [rand(2, 2), rand(2, 2, seed=1)]
    torch.testing.assert_close(
        kernels.path_linear(x, weights, (0, 1), ((0,), (1,))), kernels.path_linear(x.contiguous(), weights, (0, 1), ((0,), (1,)))
    )


def test_segment_sum_leaves_empty_rows_zero() -> None:
    got = kernels.segment_sum(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 3, 3]), 5)
    assert got.flatten().tolist() == [1.0, 0.0, 0.0, 6.0, 0.0]


def test_edge_forces_against_a_loop() -> None:
    """From the definition, with padding that holds NaN."""
    nodes, edges, padding = 4, 11, 3
    graph = Graph.from_edges(
        *torch.randint(nodes, (2, edges), generator=torch.Generator().manual_seed(3)), torch.zeros(edges, 3, dtype=torch.int64), nodes, 1.0
    )
    gradient, vectors = rand(edges, 3), rand(edges, 3, seed=1)
    forces = torch.zeros(nodes, 3, dtype=torch.float64)
    virials, received = torch.zeros(2, nodes, 3, 3, dtype=torch.float64)
    for g, r, sender, receiver in zip(gradient, vectors, graph.senders_E, graph.receivers_E, strict=True):
        forces[sender] += g
        forces[receiver] -= g
        virials[sender] -= 0.5 * torch.outer(r, g)
        virials[receiver] -= 0.5 * torch.outer(r, g)
        received[receiver] -= torch.outer(r, g)
    nan = torch.full((padding, 3), torch.nan, dtype=torch.float64)
    padded = graph.padded(edges + padding).rows[2:]
    for kind, expected in (("shared", virials), ("received", received), ("none", None)):
        got = kernels.edge_forces(torch.cat([gradient, nan]), torch.cat([vectors, nan]), *padded, kind)
        torch.testing.assert_close(got[0], forces)
        torch.testing.assert_close(got[1], expected)
    torch.testing.assert_close(received.sum(0), virials.sum(0))


def test_tiles_of_species() -> None:
    """Every atom in one tile, every tile of one species."""
    species = torch.tensor([3] * 130 + [0] * 64 + [7])[torch.randperm(195, generator=torch.Generator().manual_seed(0))]
    groups = kernels.SpeciesGroups.of(species)
    assert groups.tiles_T3.dtype == torch.int32
    assert groups.tiles_T3.tolist() == [[0, 0, 64], [3, 64, 64], [3, 128, 64], [3, 192, 2], [7, 194, 1]]
    for kind, first, count in groups.tiles_T3.tolist():
        assert (species[groups.order_N[first : first + count]] == kind).all()
    assert kernels.SpeciesGroups.of(species[:0]).tiles_T3.shape == (0, 3)
