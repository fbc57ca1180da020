"""The fused radial moments at full size on a GPU."""

import pytest
import torch
from kernels.contract import CUDA, among, assert_stretched, check_replay, cotangent, gpu, some_of, stretched
from torch import Tensor

if CUDA:
    from kernels import radial_moments_contract as contract

pytestmark = gpu


@pytest.mark.parametrize("num_species", [1, 4])
def test_full_size(num_species: int) -> None:
    """The first layer of a small MACE on 1000 atoms of diamond."""
    contract.check_moments(contract.make_case(1000, 158_000, num_species, 64, padding=2000))


def test_captured_in_a_cuda_graph() -> None:
    case = contract.make_case(20, 300, 2, 64, padding=40)
    case = case._replace(table=case.table.float())
    features = case.features.float().requires_grad_()

    def run() -> list[Tensor]:
        out = case.op(features)
        return [out, *torch.autograd.grad(out.square().sum(), features)]

    check_replay(run, [features])


@pytest.mark.usefixtures("poisoned_memory")
def test_atoms_past_two_to_the_31() -> None:
    """Some of so many atoms that their moments are more than 2^31 numbers."""
    case = contract.make_case(12, 90, 4, 64)
    features = case.features.float().requires_grad_()
    want = case.op(features)
    atoms = 2**31 // want[0].numel() + 16
    places = some_of(atoms, 12)
    species = torch.zeros(atoms, dtype=torch.int64, device=contract.DEVICE)
    for number, place in enumerate(places):
        species[place] = case.species[number]
    senders, receivers, receiver_offsets, *_ = among((*case[5:], torch.arange(90, device=contract.DEVICE), case.senders), places, atoms)
    far = case._replace(species=species, senders=senders, receivers=receivers, receiver_offsets=receiver_offsets)
    out, g = far.op(features), cotangent(want)
    assert_stretched(out.detach(), want.detach(), places)
    (got,), (wanted,) = torch.autograd.grad(out, features, stretched(g, places, atoms)), torch.autograd.grad(want, features, g)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
