"""The linear layers over paths at full size on a GPU."""

import pytest
import torch
from torch import Tensor

from mosso import kernels

if torch.cuda.is_available():
    pytest.register_assert_rewrite("kernels.path_linear_contract")
    from kernels import path_linear_contract as contract

gpu = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.mark.parametrize("num_species", [pytest.param(s, marks=gpu, id=f"{s} species") for s in (0, 5)])
@pytest.mark.parametrize("matmul", ["ieee", "tf32x3"])
@pytest.mark.parametrize("sizes", [(64, 128, 128), (3000, 128, 128), (200, 96, 256), (200, 31, 64)], ids=str)
def test_full_size(sizes: tuple[int, int, int], matmul: str, num_species: int) -> None:
    """The mixing of a layer of MACE medium: as good as float32, also on tensor cores."""
    contract.check(contract.make_case(*contract.MIXING, sizes, num_species=num_species), (torch.float32,), matmul, order=1)


@pytest.mark.parametrize("num_species", [pytest.param(s, marks=gpu, id=f"{s} species") for s in (0, 5)])
def test_full_size_in_float64(num_species: int) -> None:
    contract.check(contract.make_case(*contract.MIXING, (1000, 128, 128), num_species=num_species), (torch.float64,), order=1)


@pytest.mark.parametrize("num_species", [pytest.param(s, marks=gpu, id=f"{s} species") for s in (0, 5)])
def test_captured_in_a_cuda_graph(num_species: int) -> None:
    case = contract.make_case(*contract.MIXING, (100, 64, 64), num_species=num_species)
    x, weights = case.x.float().requires_grad_(), [weight.float() for weight in case.weights]

    def run() -> list[Tensor]:
        out = case.op([x, *weights], matmul="tf32x3")
        return [out, *torch.autograd.grad(out.square().sum(), x)]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        x.mul_(0.5)
    graph.replay()
    for got, want in zip(captured, run(), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("channels", [pytest.param(128, marks=gpu)])
def test_offsets_past_two_to_the_31(channels: int) -> None:
    """The last of so many atoms that x holds more than 2^31 numbers, against the same atoms alone."""
    few = contract.make_case(*contract.MIXING, (8, channels, channels))
    weights = [weight.float() for weight in few.weights]
    many = torch.zeros(2**31 // (40 * channels) + 16, 40, channels, device=contract.DEVICE)
    many[-8:] = few.x
    assert many.numel() > 2**31
    gradients = []
    for x in (many.requires_grad_(), few.x.float().requires_grad_()):
        out = few.op([x, *weights])
        gradients.append((out[-8:], torch.autograd.grad(out[-8:].square().sum(), x)[0][-8:]))
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


def test_tiles_of_species() -> None:
    """Every atom in one tile, every tile of one species."""
    species = torch.tensor([3] * 130 + [0] * 64 + [7])[torch.randperm(195, generator=torch.Generator().manual_seed(0))]
    groups = kernels.SpeciesGroups.of(species)
    assert groups.tiles_T3.dtype == torch.int32
    assert groups.tiles_T3.tolist() == [[0, 0, 64], [3, 64, 64], [3, 128, 64], [3, 192, 2], [7, 194, 1]]
    for kind, first, count in groups.tiles_T3.tolist():
        assert (species[groups.order_N[first : first + count]] == kind).all()
    assert kernels.SpeciesGroups.of(species[:0]).tiles_T3.shape == (0, 3)
