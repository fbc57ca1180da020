"""The fused tabulated convolution at full size on a GPU."""

import pytest
import torch
from kernels.contract import BOTH, CUDA, behind_loops, check, check_among, check_replay, cotangent, gpu
from torch import Tensor

if CUDA:
    from kernels import tabulated_convolution_contract as contract

pytestmark = gpu


@pytest.mark.parametrize("dtype", BOTH, ids=str)
def test_full_size(dtype: torch.dtype) -> None:
    """A layer of MACE medium on 1000 atoms of diamond."""
    check(contract.make_case((0, 1), 3, 1000, 158_000, 128, intervals=512).run, (dtype,))


@pytest.mark.parametrize("degrees_in", [(0,), (0, 1, 2)])
def test_other_layers(degrees_in: tuple[int, ...]) -> None:
    check(contract.make_case(degrees_in, 3, 50, 3000, 96, intervals=64).run)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("degrees_in", [(0,), (0, 1), (0, 1, 2)])
def test_values_in_half_precision(degrees_in: tuple[int, ...], half: torch.dtype) -> None:
    contract.check_half(contract.make_case(degrees_in, 3, 50, 3000, 96, table=half, intervals=64))


@pytest.mark.parametrize("edges_at_once", [1000, 100_000])
def test_chunks_of_many_edges(edges_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.fused, "SCRATCH_BYTES", (edges_at_once * 4 * 128 * 4,) * 2)
    check(contract.make_case((0, 1), 3, 300, 20_000, 128, padding=500, intervals=64).run, (torch.float32,))


def test_captured_in_a_cuda_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.fused, "SCRATCH_BYTES", (100 * 4 * 64 * 4,) * 2)  # four chunks
    case = contract.make_case((0, 1), 2, 20, 300, 64, padding=40)
    inputs = [t.float().requires_grad_() for t in case[:2]]

    def run() -> list[Tensor]:
        out = case.op(*inputs)
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    check_replay(run, inputs)


def test_offsets_past_two_to_the_31(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a table of more than 2^31 numbers, and edges whose dx take more, against the same of small ones."""
    small = contract.make_case((0, 1), 3, 4, 8, 128, table=torch.float16, intervals=4)
    repeats = 2**31 // small.table[0].numel() // 4 + 2
    rows = small.rows + 4 * repeats
    far = torch.zeros(4 * repeats + 5, *small.table.shape[1:], dtype=torch.float16, device=contract.DEVICE)
    far[-5:] = small.table
    assert far[: int(rows.min())].numel() > 2**31
    want = small.run("triton", torch.float32)
    for got, exact in zip(small._replace(rows=rows, table=far).run("triton", torch.float32), want, strict=True):
        assert torch.equal(got, exact)
    del far
    monkeypatch.setattr(contract.fused, "SCRATCH_BYTES", (2**36,) * 2)
    many, few = 4_300_000, 8
    before = many - few  # all of them from an extra atom to itself, which comes first

    def behind(new: Tensor, old: Tensor) -> Tensor:
        return torch.cat([new.to(old), old])

    zeros = torch.zeros(before, dtype=torch.int64, device=contract.DEVICE)
    assert many * small.x[0].numel() > 2**31
    x, features = behind(small.x[:1], small.x), behind(torch.zeros(before, small.features.shape[1]), small.features)
    case = small._replace(x=x, features=features, rows=behind(zeros + 4, small.rows), edges=behind_loops(small.edges, before))
    inputs = [t.float().requires_grad_() for t in case[:2]]
    out = case.op(*inputs)
    grads = torch.autograd.grad(out[1:], inputs, cotangent(want[0]).float())
    for got, exact in zip((out[1:], grads[0][1:], grads[1][-few:]), want, strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("degrees_in", "max_ell"), [((0, 1), 3), ((0,), 0)], ids=["sums", "features and sums"])
def test_atoms_past_two_to_the_31(degrees_in: tuple[int, ...], max_ell: int) -> None:
    """Some of so many atoms that what is summed for them, and in the second case their features too, are more than 2^31 numbers."""
    case = contract.make_case(degrees_in, max_ell, 12, 60, 128)
    each = case.op(*case[:2])[0].numel()
    check_among(case, case[:2], 2**31 // each + 16)
