"""The fused edge convolution at full size on a GPU."""

import pytest
import torch
from kernels.contract import BOTH, CUDA, behind_loops, check, check_among, check_replay, gpu
from torch import Tensor

if CUDA:
    from kernels import edge_convolution_contract as contract

pytestmark = gpu


@pytest.mark.parametrize("dtype", BOTH, ids=str)
def test_full_size(dtype: torch.dtype) -> None:
    """A layer of MACE medium on 1000 atoms of diamond."""
    check(contract.make_case((0, 1), 3, 1000, 158_000, 128).run, (dtype,))


@pytest.mark.parametrize("degrees_in", [(0,), (0, 1, 2)], ids=str)
def test_other_layers(degrees_in: tuple[int, ...]) -> None:
    check(contract.make_case(degrees_in, 3, 50, 3000, 96).run)


def test_captured_in_a_cuda_graph() -> None:
    case = contract.make_case((0, 1), 2, 20, 300, 64, padding=40)
    inputs = [t.float().requires_grad_() for t in case[:3]]

    def run() -> list[Tensor]:
        out = case.op(*inputs)
        return [out, *torch.autograd.grad(out.square().sum(), inputs)]

    check_replay(run, inputs)


def test_offsets_past_two_to_the_31() -> None:
    """The last of so many edges that their weights take more than 2^31 numbers, against the same edges alone."""
    case = contract.make_case((0, 1), 3, 4, 8, 128)
    many, few = 1_700_000, case.harmonics.shape[0]
    before = many - few  # all of them from an extra atom to itself, which comes first

    def grown(t: Tensor) -> Tensor:
        long = torch.zeros(many, *t.shape[1:], dtype=torch.float32, device=contract.DEVICE)
        long[before:] = t
        return long.requires_grad_()

    assert many * len(case.paths) * 128 > 2**31
    inputs = [torch.cat([case.x[:1], case.x]).float().requires_grad_(), grown(case.harmonics), grown(case.weights)]
    out = case._replace(edges=behind_loops(case.edges, before)).op(*inputs)
    small = [t.float().requires_grad_() for t in case[:3]]
    want = case.op(*small)
    assert torch.equal(out[1:], want)
    grads = torch.autograd.grad(out[1:].square().sum(), inputs)
    for got, exact, rows in zip(grads, torch.autograd.grad(want.square().sum(), small), (4, few, few), strict=True):
        torch.testing.assert_close(got[-rows:], exact, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("degrees_in", "max_ell"), [((0, 1), 3), ((0,), 0)], ids=["sums", "features and sums"])
def test_atoms_past_two_to_the_31(degrees_in: tuple[int, ...], max_ell: int) -> None:
    """Some of so many atoms that what is summed for them, and in the second case their features too, are more than 2^31 numbers."""
    case = contract.make_case(degrees_in, max_ell, 12, 60, 128)
    each = case.op(*case[:3])[0].numel()
    check_among(case, case[:3], 2**31 // each + 16)
