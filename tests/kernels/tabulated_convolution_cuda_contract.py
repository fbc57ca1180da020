"""The tabulated convolution with its backward in CUDA C++ against the reference, on the host where there is no GPU."""

import pytest
import torch
from kernels import cuda_host
from kernels.contract import CUDA, assert_same_bits, cotangent
from kernels.convolution_cases import SIZES
from kernels.tabulated_convolution_contract import Case, make_case

from mosso.kernels import dispatch
from mosso.kernels.cuda import tabulated_convolution as cuda
from mosso.kernels.fused import tabulated_convolution as fused

pytestmark = pytest.mark.usefixtures("poisoned_memory")


@pytest.fixture(autouse=True)
def _on_host(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not CUDA:
        cuda_host.use(monkeypatch, tmp_path_factory.getbasetemp())


def check(case: Case) -> None:
    """Relative root mean square errors of the gradients: 3e-7, or four times what float32 itself makes of so few numbers."""
    want = case.run("reference", torch.float64)[1:]
    for got, plain, exact in zip(case.run("cuda", torch.float32)[1:], case.run("reference", torch.float32)[1:], want, strict=True):
        error, allowed = (float((t.double() - exact).norm() / exact.norm()) for t in (got, plain))
        assert error < max(3e-7, 4 * allowed)


def in_eights(name: str) -> Case:
    """One of the awkward sizes, with eight times the channels, or 40."""
    sizes = SIZES[name]
    return make_case(*sizes._replace(channels=8 * sizes.channels if sizes.channels < 6 else 40))


@pytest.mark.parametrize("name", [name for name, sizes in SIZES.items() if sizes.nodes and sizes.edges])
def test_is_as_exact_as_float32(name: str) -> None:
    check(in_eights(name).visited_by_row())


@pytest.mark.parametrize("name", [name for name, sizes in SIZES.items() if not (sizes.nodes and sizes.edges)])
def test_nothing_to_add_up(name: str) -> None:
    case = in_eights(name)
    for got, want in zip(case.run("cuda", torch.float32), case.run("reference", torch.float32), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("table", [torch.float16, torch.float32], ids=str)
def test_paths_of_degree_three(table: torch.dtype) -> None:
    check(make_case((0, 1), 3, 3, 50, 16, padding=2, table=table).visited_by_row())


@pytest.mark.parametrize("edges_at_once", [100, 19, 3, 1])
def test_chunks_of_edges(edges_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case((0, 1), 1, 3, 45, 8, padding=4).visited_by_row()
    whole = case.run("cuda", torch.float32)
    monkeypatch.setattr(fused, "SCRATCH_BYTES", edges_at_once * 4 * (4 * 8 + 4))
    got = case.run("cuda", torch.float32)
    assert torch.equal(got[2], whole[2]) and not got[2][45:].any()
    torch.testing.assert_close(got[1], whole[1], rtol=1e-5, atol=1e-5)


def test_numbers_of_any_size() -> None:
    """Powers of two change nothing but the exponent."""
    case = make_case((0, 1), 2, 3, 20, 8)
    for scale in (2.0**-40, 2.0**40):
        scaled = case._replace(table=case.table * scale)
        for got, want in zip(scaled.run("cuda", torch.float32), case.run("cuda", torch.float32), strict=True):
            assert torch.equal(got, want * scale)


def test_integers_of_either_size() -> None:
    case = make_case((0, 1), 1, 3, 20, 8)
    small = case._replace(edges=tuple(t.to(torch.int32) for t in case.edges[:3]) + case.edges[3:])
    assert_same_bits(small.run("cuda", torch.float32), case.run("cuda", torch.float32))


def test_only_gradients_that_are_asked_for() -> None:
    case = make_case((0, 1), 1, 2, 4, 8)
    x, features = (t.float().requires_grad_() for t in case[:2])
    both = case.run("cuda", torch.float32)[1:]
    out = case.op(x, features, "cuda")
    for leaf, want in zip((x, features), both, strict=True):
        (got,) = torch.autograd.grad(out, [leaf], cotangent(out), retain_graph=True)
        assert torch.equal(got, want)


def test_opcheck() -> None:
    case = make_case((0, 1), 1, 3, 5, 8, padding=1)
    tensors, (senders, _, *others) = [t.float().requires_grad_() for t in case[:2]], case.edges
    order = torch.arange(len(senders), dtype=torch.int32, device=senders.device)
    constants = (case.table, senders, case.rows, order, *others, fused.PathTable.describe(case.degrees_in, case.paths))
    torch.library.opcheck(cuda._forward, (*tensors, *constants))
    plain = [t.detach() for t in tensors]
    g = cotangent(cuda._forward(*plain, *constants))
    torch.library.opcheck(cuda._backward, (g, *plain, *constants, [True, True]))


def test_asking_for_what_cannot_run() -> None:
    case = make_case((0, 1), 1, 2, 4, 12)
    x, features = (t.float() for t in case[:2])
    with pytest.raises(ValueError, match="multiples of 8 channels, and there are 12"):
        case.op(x, features, "cuda")
    with pytest.raises(ValueError, match="There is no cuda implementation of edge_vectors"):
        dispatch.choose("cuda", "edge_vectors", x)
    monkeypatched = case._replace(table=case.table.double(), x=case.x[..., :8])
    with pytest.raises(ValueError, match="tables in float32 or float16"):
        monkeypatched._replace(table=monkeypatched.table[:, :, :8]).op(x[..., :8], features, "cuda")
