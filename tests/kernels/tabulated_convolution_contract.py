"""The fused tabulated convolution against its reference, values and first derivatives; run as edge_convolution_contract.py is."""

from typing import Any, NamedTuple

import pytest
import torch
from kernels.contract import (
    CUDA,
    DEVICE,
    assert_same_bits,
    check,
    check_compile_and_export,
    check_only_needed_gradients,
    cotangent,
    derivatives,
    largest,
    random_rows,
    spread,
)
from kernels.convolution_cases import CUTS, SIZES
from torch import Tensor

from mosso import kernels
from mosso.kernels import dispatch
from mosso.kernels.fused import edge_sums
from mosso.kernels.fused import tabulated_convolution as fused
from mosso.math.coupling import CouplingPath, convolution_paths

INTERVALS = 6
pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Case(NamedTuple):
    """A problem: tensors in float64, the table in the dtype it is kept in, edges, paths."""

    x: Tensor
    features: Tensor
    rows: Tensor
    table: Tensor
    edges: tuple[Tensor, ...]
    degrees_in: tuple[int, ...]
    paths: tuple[CouplingPath, ...]
    visits: kernels.Visits | None = None
    coarse: Tensor | None = None

    def op(self, x: Tensor, features: Tensor, implementation: str = "triton") -> Tensor:
        edges = (self.rows, self.table, *self.edges)
        return kernels.tabulated_convolution(x, features, *edges, self.degrees_in, self.paths, self.visits, self.coarse, implementation)

    def visited_by_row(self) -> "Case":
        """The same with the edges of each receiver visited in the order of their rows."""
        return self._replace(visits=kernels.visiting_order(self.rows, self.edges[0], self.edges[2]))

    def run(self, implementation: str, dtype: torch.dtype) -> list[Tensor]:
        """The output and both gradients."""
        return derivatives(lambda x, features: self.op(x, features, implementation), [t.to(dtype) for t in self[:2]], order=1)


def make_case(
    degrees_in: tuple[int, ...], max_ell: int, nodes: int, edges: int, channels: int,
    padding: int = 0, same: bool = False, table: torch.dtype = torch.float32, intervals: int = INTERVALS, ratio: int = 1,
) -> Case:  # fmt: skip
    """Random tensors on random edges, some beyond the cutoff; ``same`` puts every edge on atom 0 of many.

    With a ``ratio`` there is a coarse table that has nothing to do with the other.
    """
    generator = torch.Generator().manual_seed(nodes + edges + channels)
    atoms = 1 if same else None
    neighbors = random_rows(generator, nodes, edges, padding=padding, num_senders=atoms, num_receivers=atoms)
    paths = convolution_paths(degrees_in, max_ell)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    features = rand(edges + padding, (max_ell + 1) ** 2)
    rows = torch.randint(intervals + 1, (edges + padding,), generator=generator, dtype=torch.int32)
    rows[edges:] = intervals
    features[:, 0] = torch.where(rows < intervals, features[:, 0].abs() % 1, 0.0)

    def coefficients(intervals: int, num_rows: int) -> Tensor:
        table_RPCQ = rand(num_rows, len(paths), channels, 4)
        table_RPCQ[intervals:] = 0
        return table_RPCQ.to(DEVICE, table)

    return Case(
        rand(nodes, sum(2 * d + 1 for d in degrees_in), channels).to(DEVICE),
        features.to(DEVICE),
        rows.to(DEVICE),
        coefficients(intervals, intervals + ratio),
        neighbors,
        degrees_in,
        paths,
        coarse=coefficients(intervals // ratio, intervals // ratio + 1) if ratio > 1 else None,
    )


@pytest.mark.parametrize("name", SIZES)
def test_equals_the_reference(name: str) -> None:
    check(make_case(*SIZES[name]).run)


def test_table_in_another_precision() -> None:
    check(make_case((0, 1), 1, 3, 6, 3, table=torch.float64).run)


@pytest.mark.parametrize("edges_at_once", [100, 5])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
def test_values_in_half_precision(half: torch.dtype, edges_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case((0, 1), 1, 3, 14, 3, padding=3, ratio=2)
    assert case.coarse is not None
    monkeypatch.setattr(fused, "SCRATCH_BYTES", (edges_at_once * (4 * 3 * 2 + 4 * 4),) * 2)
    check_half(case._replace(coarse=case.coarse.to(half)))


def check_half(case: Case) -> None:
    """Values in half precision: gradients of x wait in it for their sum, all else is as exact as with any table."""
    half = (case.table if case.coarse is None else case.coarse).dtype
    want, got = case.run("reference", torch.float64), case.run("triton", torch.float32)
    for exact, found in ((want[0], got[0]), (want[2], got[2])):
        assert largest(found - exact) <= 1e-5 * largest(exact)
    # Every edge with a sender of its own has the gradient of that edge.
    senders, receivers, *_ = case.edges
    apart = torch.arange(len(senders), device=DEVICE)
    x_E = case.x[senders].requires_grad_()
    of_edges = case._replace(edges=(apart, receivers, *case.edges[2:])).op(x_E, case.features, "reference")
    (grad_edges,) = torch.autograd.grad((of_edges[: len(case.x)] * cotangent(want[0])).sum(), x_E)
    error, bound = (got[1] - want[1]).abs(), torch.zeros_like(want[1]).index_add(0, senders, grad_edges.abs()) * torch.finfo(half).eps
    bound *= 0.5 if CUDA or half == torch.float16 else 1.0  # the interpreter cuts bfloat16 off
    assert (error <= 1.01 * bound + 1e-5 * largest(want[1])).all() and error.max() > 0.02 * bound.max()


@pytest.mark.parametrize(("step", "ahead"), [(1, False), (1, True), (2, True), (3, False)])
@pytest.mark.parametrize("ratio", [2, 3])
def test_values_of_a_coarse_table(ratio: int, step: int, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is made of one table, the gradients of the other."""
    monkeypatch.setattr(fused, "config", lambda direction, *_: fused.Config(32, 1, step, 128, ahead))
    case = make_case((0, 1), 1, 4, 14, 3, padding=2, ratio=ratio).visited_by_row()
    assert case.coarse is not None and case.coarse.shape[0] * ratio == case.table.shape[0]
    check(case.run, (torch.float64,))
    fine, coarse = (case._replace(table=table, coarse=None).run("triton", torch.float64) for table in (case.table, spread_out(case)))
    out, *grads = case.run("triton", torch.float64)
    torch.testing.assert_close(out, coarse[0], rtol=1e-13, atol=1e-13)
    assert_same_bits(grads, fine[1:])


def spread_out(case: Case) -> Tensor:
    """The coarse table of a case as one of as many rows as the other: the same cubics in the coordinate of shorter intervals."""
    assert case.coarse is not None
    ratio, (c0, c1, c2, c3) = case.table.shape[0] // case.coarse.shape[0], case.coarse.double().unbind(3)
    rows = []
    for first in range(ratio):  # t of the coarse table is (first + s) / ratio
        a, b = first / ratio, 1 / ratio
        rows.append([c0 + a * (c1 + a * (c2 + a * c3)), b * (c1 + a * (2 * c2 + 3 * a * c3)), b * b * (c2 + 3 * a * c3), b * b * b * c3])
    return torch.stack([torch.stack(row, dim=3) for row in rows], dim=1).flatten(0, 1)


@pytest.mark.parametrize("most", [1, 3])
def test_programs_that_share_a_receiver(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "MOST_SHARES", most)
    check(make_case((0, 1), 2, 2, 5, 3, padding=1).run, (torch.float64,))


@pytest.mark.parametrize(("step", "max_sums", "ahead"), CUTS)
def test_every_way_to_cut_the_kernel(step: int, max_sums: int, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "config", lambda direction, *_: fused.Config(32, 1, step, max_sums, ahead))
    check(make_case((0, 1), 2, 2, 5, 3, padding=1).run, (torch.float64,))


@pytest.mark.parametrize("edges_at_once", [0, 1, 3, 4, 8])
def test_chunks_of_edges(edges_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where chunks end amid the edges of an atom, in the padding, and where one edge is more than there is room for."""
    case = make_case((0, 1), 1, 3, 7, 2, padding=4)
    whole = case.run("triton", torch.float64)
    monkeypatch.setattr(fused, "SCRATCH_BYTES", (edges_at_once * 4 * 2 * 8,) * 2)
    check(case.run, (torch.float64,))
    out, grad_x, grad_features = case.run("triton", torch.float64)
    assert torch.equal(out, whole[0]) and torch.equal(grad_features, whole[2])
    torch.testing.assert_close(grad_x, whole[1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("edges_at_once", [100, 7, 3, 1])
def test_edges_may_be_visited_in_another_order(edges_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a chunk ends amid the edges of an atom, so that not all that are visited belong to it."""
    monkeypatch.setattr(fused, "SCRATCH_BYTES", (edges_at_once * 4 * (4 * 2 + 4) * 2,) * 2)
    case = make_case((0, 1), 1, 3, 25, 2, padding=4).visited_by_row()
    assert case.visits is not None
    assert not torch.equal(case.visits.order_E[:25].cpu(), torch.arange(25, dtype=torch.int32))
    check(case.run, (torch.float64,))


@pytest.mark.parametrize("many", [0, 10**9])
def test_wide_rows_in_chunks(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over senders in programs of 512 columns, of which some are behind the last, with few rows under way or with many."""
    monkeypatch.setattr(edge_sums, "MANY_NODES", many)
    case = make_case((0, 1), 1, 3, 25, 70)
    whole = case.run("triton", torch.float64)
    monkeypatch.setattr(fused, "SCRATCH_BYTES", (4 * 4 * 70 * 8,) * 2)
    check(case.run, (torch.float64,))
    torch.testing.assert_close(case.run("triton", torch.float64)[1], whole[1], rtol=1e-13, atol=1e-13)


def test_gradients_of_many_atoms_get_more_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SCRATCH_BYTES", (1000, 3000))
    assert [fused._edges_at_once(num_nodes, 10) for num_nodes in (5, 7, 100)] == [100, 119, 300]


def test_room_for_more_edges_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks end where they end whatever the padding behind them: a recording with headroom gives what an eager call gives."""
    monkeypatch.setattr(fused, "SCRATCH_BYTES", (23 * 4 * (4 * 2 + 4),) * 2)
    results = []
    for padding in (0, 5, 20, 40):
        case = make_case((0, 1), 1, 3, 60, 2, padding=40)
        senders, receivers, offsets, transpose, sender_offsets = case.edges
        kept = slice(60 + padding)
        edges = (senders[kept], receivers[kept], offsets, transpose[transpose < 60 + padding], sender_offsets)
        out, grad_x, grad_features = case._replace(features=case.features[kept], rows=case.rows[kept], edges=edges).run(
            "triton", torch.float32
        )
        results.append((out, grad_x, grad_features[:60]))
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_every_edge_on_one_atom_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "SCRATCH_BYTES", (5 * 4 * 2 * 8,) * 2)
    check(make_case((0, 1), 1, 4, 19, 2, same=True).run, (torch.float64,))


def test_every_run_gives_the_same_bits() -> None:
    case = make_case((0, 1), 1, 3, 12, 3)
    assert_same_bits(case.run("triton", torch.float32), case.run("triton", torch.float32))


def test_padding_gets_zero_gradients() -> None:
    case = make_case((0, 1), 1, 3, 5, 3, padding=4)
    case.rows[:5] = torch.arange(5, dtype=torch.int32) % INTERVALS
    case.features[5:] = torch.nan
    case.rows[5:] = 2**30
    grad = case.run("triton", torch.float32)[2]
    assert not grad[5:].any() and grad[:5].all()


@pytest.mark.parametrize(("step", "ahead"), [(1, False), (1, True), (2, True), (3, False)])
def test_what_is_no_number_stays_with_its_atoms(step: int, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a step has more edges than are left, what is read in their place is of the same receiver."""
    monkeypatch.setattr(fused, "config", lambda direction, *_: fused.Config(32, 1, step, 128, ahead))
    case = make_case((0, 1), 2, 5, 14, 3, padding=3)
    _, receivers, offsets, *_ = case.edges
    broken = receivers[:14] == receivers[0]
    assert len(set(offsets.diff().tolist())) > 2, "atoms have different numbers of edges"
    whole = case.run("triton", torch.float64)
    features = case.features.clone()
    features[:14][broken] = torch.nan
    out, _, grad = case._replace(features=features).run("triton", torch.float64)
    others = torch.arange(5, device=DEVICE) != receivers[0]
    assert torch.equal(out[others], whole[0][others])
    assert torch.equal(grad[:14][~broken], whole[2][:14][~broken])
    assert out[~others].isnan().all()


def test_edges_beyond_the_cutoff_add_nothing() -> None:
    case = make_case((0, 1), 1, 3, 6, 3)
    case.rows[:] = INTERVALS
    case.features[:, 0] = 0.0
    assert not any(result.any() for result in case.run("triton", torch.float32))


def test_real_features_of_edges() -> None:
    """Vectors to the output and back, through the op that makes rows and features."""
    case = make_case((0, 1), 2, 3, 6, 2)
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(6, 3, generator=generator, dtype=torch.float64).to(DEVICE)
    vectors[1] = vectors.new_tensor([0.0, 2.0, 0.0])  # the cutoff itself
    vectors[4] = 3.0
    results = []
    for implementation in ("triton", "reference"):
        of_edges = vectors.clone().requires_grad_()
        features, rows = kernels.edge_features(of_edges, 2, 2.0, INTERVALS, torch.float64)
        out = case._replace(rows=rows).op(case.x, features, implementation)
        results.append((out, *torch.autograd.grad(out, [of_edges], cotangent(out))))
    assert int(rows[1]) == int(rows[4]) == INTERVALS and int(rows.min()) < INTERVALS
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


def test_non_contiguous_inputs() -> None:
    case = spread(make_case((0, 1), 1, 3, 6, 4, ratio=2))
    assert case.coarse is not None and not any(t.is_contiguous() for t in (*case[:4], case.coarse, *case.edges))
    check(case.run, (torch.float64,))


def test_only_gradients_that_are_asked_for() -> None:
    case = make_case((0, 1), 1, 2, 4, 2)
    check_only_needed_gradients(case.op, case[:2])


def test_opcheck() -> None:
    case = make_case((0, 1), 1, 3, 5, 2, padding=1)
    tensors, (senders, _, *others) = [t.clone().requires_grad_() for t in case[:2]], case.edges
    order = torch.arange(len(senders), dtype=torch.int32, device=DEVICE)
    constants = (case.table, case.table, senders, case.rows, order, *others, fused.PathTable.describe(case.degrees_in, case.paths))
    torch.library.opcheck(fused._forward, (*tensors, *constants))
    plain = [t.detach() for t in tensors]
    g = cotangent(fused._forward(*plain, *constants))
    for needed in ([True, True], [False, True]):
        torch.library.opcheck(fused._backward, (g, *plain, case.table, *constants[2:], "float32", needed))


class Op(torch.nn.Module):
    """The op with a fixed table, as a model holds it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.degrees_in, self.paths = case.degrees_in, case.paths

    def forward(self, x: Tensor, features: Tensor, rows: Tensor, table: Tensor, edges: tuple[Tensor, ...]) -> Tensor:
        return kernels.tabulated_convolution(x, features, rows, table, *edges, self.degrees_in, self.paths, implementation="triton")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_compile_and_export(dynamic: bool) -> None:
    case = make_case((0, 1), 1, 3, 6, 2)
    check_compile_and_export(Op(case), case[:2], (case.rows, case.table, case.edges), dynamic)


def test_second_derivative_is_refused() -> None:
    case = make_case((0, 1), 1, 2, 4, 2)
    x, features = (t.requires_grad_() for t in case[:2])
    (grad,) = torch.autograd.grad(case.op(x, features).square().sum(), [features], create_graph=True)
    with pytest.raises(ValueError, match="a first derivative only: ask for 'reference'"):
        grad.square().sum().backward()


def test_asking_for_what_cannot_run() -> None:
    case = make_case((0,), 1, 2, 3, 2)
    with pytest.raises(ValueError, match="float64 on .* and torch.float32 on"):
        case.op(case.x, case.features.float())
    with pytest.raises(ValueError, match="no gradient of its table"):
        case._replace(table=case.table.clone().requires_grad_()).op(case.x, case.features)
    with pytest.raises(ValueError, match="no gradient of its table"):
        case._replace(coarse=case.table.clone().requires_grad_()).op(case.x, case.features)
    scaled = case._replace(paths=tuple(CouplingPath(p.l_in, p.l_edge, p.l_out, -0.3) for p in case.paths))
    torch.testing.assert_close(scaled.op(case.x, case.features), scaled.op(case.x, case.features, "reference"))
    chosen = dispatch.ON_CUDA["tabulated_convolution"] if CUDA else "reference"
    results: list[Any] = [case.op(case.x, case.features, implementation) for implementation in ("auto", chosen)]
    assert torch.equal(*results)
