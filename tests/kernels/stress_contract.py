"""The fused stress against its reference, on cells of any shape and handedness, flat ones too."""

import pytest
import torch
from kernels.contract import DEVICE

from mosso import kernels
from mosso.kernels import reference
from mosso.kernels.fused import stress as fused

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def case(systems: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(systems)
    return tuple(torch.randn(systems, 3, 3, dtype=torch.float64, generator=generator).to(DEVICE) for _ in range(2))


@pytest.mark.parametrize("systems", [0, 1, 7])
def test_equals_the_reference(systems: int) -> None:
    virial, cell = case(systems)
    got = kernels.stress(virial, cell, implementation="triton")
    torch.testing.assert_close(got, reference.stress(virial, cell), rtol=1e-13, atol=1e-13)
    assert torch.equal(got, got.mT)


def test_without_a_volume_there_is_none() -> None:
    virial, cell = case(3)
    cell[0], cell[1, 2] = 0.0, 0.0
    got = kernels.stress(virial, cell, implementation="triton")
    assert got[:2].isnan().all() and got[2].isfinite().all()


def test_derivatives_are_those_of_the_reference() -> None:
    virial, cell = case(2)
    with pytest.raises(ValueError, match="the reference implementation gives them"):
        kernels.stress(virial.requires_grad_(), cell, implementation="triton")


def test_opcheck() -> None:
    torch.library.opcheck(fused._forward, (*case(2), ""))
