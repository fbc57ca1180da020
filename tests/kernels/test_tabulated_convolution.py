"""The fused tabulated convolution at full size on a GPU."""

import pytest
import torch
from torch import Tensor

if torch.cuda.is_available():
    pytest.register_assert_rewrite("kernels.tabulated_convolution_contract")
    from kernels import tabulated_convolution_contract as contract

gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.mark.parametrize("dtype", [pytest.param(d, marks=gpu, id=str(d)) for d in (torch.float32, torch.float64)])
def test_full_size(dtype: torch.dtype) -> None:
    """A layer of MACE medium on 1000 atoms of diamond."""
    contract.check(contract.make_case((0, 1), 3, 1000, 158_000, 128, intervals=512), (dtype,))


@pytest.mark.parametrize("table", [pytest.param(d, marks=gpu, id=str(d)) for d in (torch.float32, torch.float16)])
@pytest.mark.parametrize("degrees_in", [(0,), (0, 1, 2)])
def test_other_layers(degrees_in: tuple[int, ...], table: torch.dtype) -> None:
    contract.check(contract.make_case(degrees_in, 3, 50, 3000, 96, table=table, intervals=64))


@pytest.mark.parametrize("edges_at_once", [pytest.param(n, marks=gpu) for n in (1000, 100_000)])
def test_chunks_of_many_edges(edges_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.fused, "SCRATCH_BYTES", edges_at_once * 4 * 128 * 4)
    contract.check(contract.make_case((0, 1), 3, 300, 20_000, 128, padding=500, intervals=64), (torch.float32,))


@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=gpu)])
def test_captured_in_a_cuda_graph(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract.fused, "SCRATCH_BYTES", 100 * 4 * 64 * 4)  # four chunks
    case = contract.make_case((0, 1), 2, 20, 300, 64, padding=40)
    inputs = case.inputs(torch.float32)

    def run() -> list[Tensor]:
        out = case.op(*inputs, implementation)
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        for t in inputs:
            t.mul_(0.5)
    graph.replay()
    for got, want in zip(captured, run(), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=gpu)])
def test_offsets_past_two_to_the_31(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a table of more than 2^31 numbers, and edges whose dx take more, against the same of small ones."""
    small = contract.make_case((0, 1), 3, 4, 8, 128, table=torch.float16, intervals=4)
    repeats = 2**31 // small.table[0].numel() // 4 + 2
    rows = small.rows + 4 * repeats
    far = torch.zeros(4 * repeats + 5, *small.table.shape[1:], dtype=torch.float16, device=contract.DEVICE)
    far[-5:] = small.table
    assert far[: int(rows.min())].numel() > 2**31
    want = small.run(implementation, torch.float32)
    for got, exact in zip(small._replace(rows=rows, table=far).run(implementation, torch.float32), want, strict=True):
        assert torch.equal(got, exact)
    del far
    monkeypatch.setattr(contract.fused, "SCRATCH_BYTES", 2**36)
    many, few = 4_300_000, 8
    before = many - few  # all of them from an extra atom to itself, which comes first
    senders, receivers, receiver_offsets, transpose, sender_offsets = small.edges

    def behind(new: Tensor, old: Tensor) -> Tensor:
        return torch.cat([new.to(old), old])

    zeros = torch.zeros(before, dtype=torch.int64, device=contract.DEVICE)
    first = torch.zeros(1, dtype=torch.int64, device=contract.DEVICE)
    edges = (
        behind(zeros, senders + 1),
        behind(zeros, receivers + 1),
        behind(first, receiver_offsets + before),
        behind(torch.arange(before), transpose + before),
        behind(first, sender_offsets + before),
    )
    assert many * small.x[0].numel() > 2**31
    x, features = behind(small.x[:1], small.x), behind(torch.zeros(before, small.features.shape[1]), small.features)
    case = small._replace(x=x, features=features, rows=behind(zeros + 4, small.rows), edges=edges)
    inputs = case.inputs(torch.float32)
    out = case.op(*inputs, implementation)
    grads = torch.autograd.grad(out[1:], inputs, contract.cotangent(want[0]).float())
    for got, exact in zip((out[1:], grads[0][1:], grads[1][-few:]), want, strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-6)
