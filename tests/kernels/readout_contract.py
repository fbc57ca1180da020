"""The fused readout against its reference: energies, first and second derivatives, awkward shapes.

Runs on the GPU where there is one, else under Triton's interpreter; test_contracts.py starts it in a process of its own.
"""

import pytest
import torch
from kernels.contract import BOTH, DEVICE, check, check_compile_and_export, derivatives, spread
from torch import Tensor

from mosso import kernels
from mosso.kernels.fused import readout as fused

# What float64 products leave before features are rounded, relative to the largest number of a result.
FLOOR = {torch.float32: 1e-7, torch.float64: 1e-14}
pytestmark = pytest.mark.usefixtures("poisoned_memory")


def make_case(atoms: int, rows: int, channels: int, hidden: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features and weights; ``hidden`` 0 for a linear readout."""
    generator = torch.Generator().manual_seed(atoms + channels + hidden)
    h, first, second = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE)
        for shape in ((atoms, rows, channels), (channels, max(hidden, 1)), (max(hidden, 1),))
    )
    return h, first / channels**0.5, second if hidden else None


def check_readout(case: tuple[Tensor, Tensor, Tensor | None], dtypes: tuple[torch.dtype, ...] = BOTH) -> None:
    h, first, second = case

    def run(implementation: str, dtype: torch.dtype) -> list[Tensor]:
        # squared, because the gradient of a linear readout is a constant
        return derivatives(lambda x: kernels.readout(x, first, second, implementation=implementation).square(), [h.to(dtype)], order=2)

    check(run, dtypes=dtypes, floor=FLOOR)


@pytest.mark.parametrize("hidden", [0, 1, 16, 20])
@pytest.mark.parametrize(("rows", "channels"), [(1, 8), (4, 33), (9, 64)])
def test_equals_the_reference(rows: int, channels: int, hidden: int) -> None:
    check_readout(make_case(37, rows, channels, hidden))


@pytest.mark.parametrize("atoms", [0, 1, 16])
@pytest.mark.parametrize("hidden", [0, 16])
def test_few_atoms(atoms: int, hidden: int) -> None:
    check_readout(make_case(atoms, 4, 16, hidden))


@pytest.mark.parametrize("hidden", [0, 16])
def test_non_contiguous(hidden: int) -> None:
    check_readout(spread(make_case(19, 4, 16, hidden)))


def test_gradient_of_rows_that_are_no_scalars_is_zero() -> None:
    h, first, second = make_case(5, 4, 16, 16)
    h.requires_grad_()
    (gradient,) = torch.autograd.grad(kernels.readout(h, first, second, implementation="triton").sum(), h)
    assert gradient[:, 0].all() and not gradient[:, 1:].any()


def test_weights_are_constants() -> None:
    h, first, second = make_case(3, 1, 8, 4)
    with pytest.raises(ValueError, match="the reference implementation gives their derivatives"):
        kernels.readout(h, first.requires_grad_(), second, implementation="triton")


@pytest.mark.parametrize("hidden", [0, 4])
def test_opcheck(hidden: int) -> None:
    h, first, second = make_case(3, 4, 8, hidden)
    torch.library.opcheck(fused._forward, (h.requires_grad_(), first, second, ""))
    torch.library.opcheck(fused._backward, (torch.ones_like(h[:, 0, 0]).detach(), h.detach(), first, second, ""))


class Op(torch.nn.Module):
    """The op with its weights fixed, as a model holds them."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        _, self.first, self.second = make_case(3, 4, 8, hidden)

    def forward(self, h: Tensor) -> Tensor:
        return kernels.readout(h, self.first, self.second, implementation="triton")


@pytest.mark.parametrize("hidden", [0, 4])
@pytest.mark.filterwarnings("ignore")
def test_compile_and_export(hidden: int) -> None:
    check_compile_and_export(Op(hidden), [make_case(3, 4, 8, hidden)[0].float()])
