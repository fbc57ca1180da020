"""The linear layers over paths at full size on a GPU."""

import pytest
import torch
from kernels.contract import CUDA, check_replay, gpu
from torch import Tensor

if CUDA:
    from kernels import path_linear_contract as contract

pytestmark = gpu


@pytest.mark.parametrize("num_species", [0, 5], ids="{} species".format)
@pytest.mark.parametrize("sizes", [(64, 128, 128), (3000, 128, 128), (200, 96, 256), (200, 31, 64)], ids=str)
def test_full_size(sizes: tuple[int, int, int], num_species: int) -> None:
    """The mixing of a layer of MACE medium."""
    contract.check_products(contract.make_case(*contract.MIXING, sizes, num_species=num_species), (torch.float32,), order=1)


@pytest.mark.parametrize("num_species", [0, 5], ids="{} species".format)
def test_full_size_in_float64(num_species: int) -> None:
    contract.check_products(contract.make_case(*contract.MIXING, (1000, 128, 128), num_species=num_species), (torch.float64,), order=1)


@pytest.mark.parametrize("num_species", [0, 5], ids="{} species".format)
def test_captured_in_a_cuda_graph(num_species: int) -> None:
    case = contract.make_case(*contract.MIXING, (100, 64, 64), num_species=num_species)
    x, weights = case.x.float().requires_grad_(), [weight.float() for weight in case.weights]

    def run() -> list[Tensor]:
        out = case.op(x, *weights)
        return [out, *torch.autograd.grad(out.square().sum(), x)]

    check_replay(run, [x])


@pytest.mark.parametrize("channels", [128])
def test_offsets_past_two_to_the_31(channels: int) -> None:
    """The last of so many atoms that x holds more than 2^31 numbers, against the same atoms alone."""
    few = contract.make_case(*contract.MIXING, (8, channels, channels))
    weights = [weight.float() for weight in few.weights]
    many = torch.zeros(2**31 // (40 * channels) + 16, 40, channels, device=contract.DEVICE)
    many[-8:] = few.x
    assert many.numel() > 2**31
    gradients = []
    for x in (many.requires_grad_(), few.x.float().requires_grad_()):
        out = few.op(x, *weights)
        gradients.append((out[-8:], torch.autograd.grad(out[-8:].square().sum(), x)[0][-8:]))
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)
