"""The fused radial moments against their reference.

Runs on the GPU where there is one, else under Triton's interpreter, for which TRITON_INTERPRET has to be set before
anything imports triton: test_radial_moments.py starts it in a process of its own.
"""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mosso import kernels
from mosso.kernels.fused import INTERPRETED
from mosso.kernels.fused import radial_moments as fused

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what the reference needs in deterministic mode
FLOOR = {torch.float32: 1e-6, torch.float64: 1e-13}  # relative to the largest number of the result
assert INTERPRETED is not CUDA, "set TRITON_INTERPRET=1 where there is no CUDA device, and only there"


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """New tensors start as NaN, so that a number nobody wrote cannot pass."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


class Case(NamedTuple):
    """A problem, real numbers in float64."""

    features: Tensor
    rows: Tensor
    table: Tensor
    species: Tensor
    num_species: int
    senders: Tensor
    receivers: Tensor
    receiver_offsets: Tensor

    def run(self, implementation: str, dtype: torch.dtype) -> list[Tensor]:
        """The moments and the gradient of the features, in float64 for comparison."""
        features = self.features.to(dtype, copy=True).requires_grad_()
        out = kernels.radial_moments(features, self.rows, self.table.to(dtype), *self[3:], implementation=implementation)
        (grad,) = torch.autograd.grad((out * cotangent(out)).sum(), features)
        return [out.detach().double(), grad.double()]


def cotangent(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(like)


def make_case(
    nodes: int, edges: int, num_species: int = 1, num_radial: int = 5, num_features: int = 16, *, padding: int = 0, same: bool = False
) -> Case:  # fmt: skip
    """Random tensors on random edges; ``same`` puts every edge on atom 0 of many. What padding edges hold is NaN."""
    generator = torch.Generator().manual_seed(nodes + edges + num_radial)
    senders, receivers = torch.randint(max(nodes, 1), (2, edges + padding), generator=generator)
    receivers = (receivers * (not same)).sort().values
    counts = torch.bincount(receivers[:edges], minlength=nodes)
    intervals = 11
    features = torch.randn(edges + padding, num_features, generator=generator, dtype=torch.float64)
    features[:, 0] = torch.rand(edges + padding, generator=generator, dtype=torch.float64)
    features[edges:] = torch.nan
    table = torch.randn(intervals + 1, 4, num_radial, generator=generator, dtype=torch.float64)
    table[intervals] = 0.0
    rows = torch.randint(intervals + 1, (edges + padding,), generator=generator, dtype=torch.int32)
    species = torch.randint(num_species, (nodes,), generator=generator)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    moved = [t.to(DEVICE) for t in (features, rows, table, species, senders, receivers, offsets)]
    return Case(*moved[:4], num_species, *moved[4:])


def check(case: Case, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)) -> None:
    """At most twice the error the reference itself makes in a dtype, or that dtype's floor; zero gradients of padding."""
    real = int(case.receiver_offsets[-1])
    clean = case._replace(features=case.features.nan_to_num())  # the reference multiplies what padding holds by zero
    truth = clean.run("reference", torch.float64)
    for dtype in dtypes:
        got = case.run("triton", dtype)
        for i, (ours, plain, want) in enumerate(zip(got, clean.run("reference", dtype), truth, strict=True)):
            assert ours.shape == want.shape
            if want.numel():
                allowed = max(2 * float((plain - want).abs().max()), FLOOR[dtype] * float(want.abs().max()))
                assert float((ours - want).abs().max()) <= allowed, f"result {i} in {dtype}"
        assert not got[1][real:].any()


SHAPES: dict[str, Callable[[], Case]] = {
    "one species": lambda: make_case(3, 20),
    "four species, 64 functions": lambda: make_case(3, 60, 4, 64),
    "ten species": lambda: make_case(2, 24, 10, 3),
    "more edges than a tile": lambda: make_case(2, 90, 2, 17),
    "one function": lambda: make_case(3, 9, 2, 1),
    "degrees up to 1": lambda: make_case(3, 12, 2, 8, 4),
    "degrees up to 4": lambda: make_case(2, 12, 1, 6, 25),
    "no edges": lambda: make_case(3, 0, 2),
    "no atoms": lambda: make_case(0, 0, 2),
    "one atom, its own neighbour": lambda: make_case(1, 4),
    "every edge on one atom": lambda: make_case(4, 37, 2, same=True),
    "padding": lambda: make_case(3, 20, 2, padding=45),
    "padding only": lambda: make_case(2, 0, 3, padding=5),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_reference(name: str) -> None:
    check(SHAPES[name]())


@pytest.mark.parametrize("tile", [16, 32])
def test_every_way_to_cut_the_kernel(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "config", lambda *_: fused.Config(tile, 4, 1, "ieee"))
    check(make_case(3, 70, 2, padding=3), (torch.float32,))


def test_every_run_gives_the_same_bits() -> None:
    case = make_case(3, 40, 2)
    for first, second in zip(case.run("triton", torch.float32), case.run("triton", torch.float32), strict=True):
        assert torch.equal(first, second)


def test_non_contiguous_inputs() -> None:
    case = make_case(3, 20, 2)
    strided = case._replace(
        features=case.features.T.contiguous().T,
        table=case.table.transpose(0, 2).contiguous().transpose(0, 2),
        **{name: torch.stack([getattr(case, name)] * 2, dim=1)[:, 0] for name in ("rows", "species", "senders", "receiver_offsets")},
    )
    assert not any(t.is_contiguous() for t in (strided.features, strided.table, strided.rows, strided.senders))
    check(strided, (torch.float64,))


def test_second_derivatives_point_to_the_reference() -> None:
    case = make_case(3, 20)
    features = case.features.clone().requires_grad_()
    out = kernels.radial_moments(features, *case[1:], implementation="triton")
    (grad,) = torch.autograd.grad(out.square().sum(), features, create_graph=True)
    with pytest.raises(ValueError, match="the reference implementation gives the second"):
        grad.sum().backward()


def test_opcheck() -> None:
    case = make_case(3, 20, 2, padding=1)
    features = case.features.nan_to_num().requires_grad_()
    edges = (case.species, case.num_species, case.senders, case.receiver_offsets, "")
    torch.library.opcheck(fused._groups, edges, test_utils=("test_schema", "test_faketensor"))  # places of padding hold anything
    arguments = (features, case.rows, case.table, *fused._groups(*edges), case.num_species, "")
    torch.library.opcheck(fused._forward, arguments)
    g = cotangent(fused._forward(*arguments).detach())
    torch.library.opcheck(fused._backward, (g, features.detach(), *arguments[1:]))


def test_groups_list_every_edge_once() -> None:
    case = make_case(5, 300, 3, padding=4)
    order, offsets = fused._groups(case.species, case.num_species, case.senders, case.receiver_offsets, "")
    groups = case.receivers[:300] * case.num_species + case.species[case.senders[:300]]
    assert order[:300].tolist() == torch.argsort(groups, stable=True).tolist()
    assert offsets.tolist() == [int((groups < group).sum()) for group in range(5 * case.num_species + 1)]


class Op(torch.nn.Module):
    """The op with a fixed number of species, as a model holds it."""

    def forward(self, features: Tensor, rows: Tensor, table: Tensor, species: Tensor, edges: tuple[Tensor, ...]) -> Tensor:
        return kernels.radial_moments(features, rows, table, species, 2, *edges, implementation="triton")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_compile_and_export(dynamic: bool) -> None:
    case = make_case(3, 20, 2)
    op, features, others = Op(), case.features.clone().requires_grad_(), (case.rows, case.table, case.species, case[5:])
    want = op(features, *others)
    compiled = torch.compile(op, backend="inductor" if CUDA else "aot_eager", fullgraph=True, dynamic=dynamic)
    got = compiled(features, *others)
    torch.testing.assert_close(got, want)
    (ours,), (theirs,) = (torch.autograd.grad((out**2).sum(), features) for out in (got, want))
    torch.testing.assert_close(ours, theirs)
    exported = torch.export.export(op, (features.detach(), *others))
    torch.testing.assert_close(exported.module()(features.detach(), *others), want)


def test_asking_for_what_cannot_run() -> None:
    case = make_case(3, 5)
    with pytest.raises(ValueError, match="float64 on .* and torch.float32 on"):
        kernels.radial_moments(case.features, case.rows, case.table.float(), *case[3:], implementation="triton")
