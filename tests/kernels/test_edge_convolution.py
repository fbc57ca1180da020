"""The fused edge convolution at full size on a GPU."""

import pytest
import torch
from torch import Tensor

from mosso import kernels

if torch.cuda.is_available():
    pytest.register_assert_rewrite("kernels.edge_convolution_contract")
    from kernels import edge_convolution_contract as contract

gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.mark.parametrize("dtype", [pytest.param(d, marks=gpu, id=str(d)) for d in (torch.float32, torch.float64)])
def test_full_size(dtype: torch.dtype) -> None:
    """A layer of MACE medium on 1000 atoms of diamond."""
    contract.check(contract.make_case((0, 1), 3, 1000, 158_000, 128), (dtype,))


@pytest.mark.parametrize("degrees_in", [pytest.param(d, marks=gpu, id=str(d)) for d in ((0,), (0, 1, 2))])
def test_other_layers(degrees_in: tuple[int, ...]) -> None:
    contract.check(contract.make_case(degrees_in, 3, 50, 3000, 96))


@pytest.mark.parametrize("implementation", [pytest.param("triton", marks=gpu)])
def test_captured_in_a_cuda_graph(implementation: str) -> None:
    case = contract.make_case((0, 1), 2, 20, 300, 64, padding=40)
    inputs = [t.float().requires_grad_() for t in case[:3]]

    def run() -> list[Tensor]:
        out = kernels.edge_convolution(*inputs, *case.edges, case.degrees_in, case.paths, implementation=implementation)
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
def test_offsets_past_two_to_the_31(implementation: str) -> None:
    """The last of so many edges that their weights take more than 2^31 numbers, against the same edges alone."""
    case = contract.make_case((0, 1), 3, 4, 8, 128)
    many, few = 1_700_000, case.harmonics.shape[0]
    senders, receivers, receiver_offsets, transpose, sender_offsets = case.edges
    before = many - few  # all of them from an extra atom to itself, which comes first

    def shifted(rows: Tensor) -> Tensor:
        return torch.cat([rows.new_zeros(before), rows + 1])

    edges = (
        shifted(senders),
        shifted(receivers),
        torch.cat([receiver_offsets[:1], receiver_offsets + before]),
        torch.cat([torch.arange(before, device=contract.DEVICE), transpose + before]),
        torch.cat([sender_offsets[:1], sender_offsets + before]),
    )

    def grown(t: Tensor) -> Tensor:
        long = torch.zeros(many, *t.shape[1:], dtype=torch.float32, device=contract.DEVICE)
        long[before:] = t
        return long.requires_grad_()

    assert many * len(case.paths) * 128 > 2**31
    inputs = [torch.cat([case.x[:1], case.x]).float().requires_grad_(), grown(case.harmonics), grown(case.weights)]
    out = kernels.edge_convolution(*inputs, *edges, case.degrees_in, case.paths, implementation=implementation)
    small = [t.float().requires_grad_() for t in case[:3]]
    want = kernels.edge_convolution(*small, *case.edges, case.degrees_in, case.paths, implementation=implementation)
    assert torch.equal(out[1:], want)
    grads = torch.autograd.grad(out[1:].square().sum(), inputs)
    for got, exact, rows in zip(grads, torch.autograd.grad(want.square().sum(), small), (4, few, few), strict=True):
        torch.testing.assert_close(got[-rows:], exact, rtol=1e-6, atol=1e-6)
