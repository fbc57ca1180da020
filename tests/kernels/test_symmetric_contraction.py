"""The fused symmetric contraction at full size on a GPU."""

import pytest
import torch
from kernels.contract import CUDA, assert_same_bits, gpu

if CUDA:
    from kernels import symmetric_contraction_contract as contract

pytestmark = gpu


@pytest.mark.parametrize(
    ("degrees", "num_atoms", "dtype"),
    [
        pytest.param((0,), 500, torch.float64, id="last layer, few atoms, float64"),
        pytest.param((0,), 5000, torch.float32, id="last layer, many atoms, float32"),
        pytest.param((0, 1), 5000, torch.float32, id="first layer, many atoms, float32"),
    ],
)
def test_full_size(degrees: tuple[int, ...], num_atoms: int, dtype: torch.dtype) -> None:
    """The tables of MACE medium."""
    case = contract.make_case(contract.table_of(3, degrees, 3), num_atoms, 5, 128)
    contract.check_contraction(case, (dtype,), torch.argsort(case.species))


@pytest.mark.parametrize("channels", [128])
def test_offsets_past_two_to_the_31(channels: int) -> None:
    """The last atoms of so many that A holds more than 2^31 numbers, against the same atoms alone."""
    table = contract.table_of(3, (0,), 2)
    few = contract.make_case(table, 8, 2, channels)
    a, w, g = few.a.float(), few.coefficients.float(), few.g.float()
    before = 2**31 // (16 * channels)
    many_a, many_g = (torch.cat([x.new_zeros(before, *x.shape[1:]), x]) for x in (a, g))
    many_species = torch.cat([few.species.new_zeros(before), few.species])
    fused = contract.fused
    want = fused.contraction(a, w, few.species, None, table.text, True), fused.gradient(g, a, w, few.species, None, table.text)
    out = fused.contraction(many_a, w, many_species, None, table.text, True)
    gradient = fused.gradient(many_g, many_a, w, many_species, None, table.text)
    assert_same_bits((out[before:], gradient[before:]), want)
