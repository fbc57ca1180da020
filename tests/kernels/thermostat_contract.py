"""The contract of Nose-Hoover chains in Triton: the reference's numbers, whatever else is in the batch.

Runs on the GPU where there is one, else under Triton's interpreter; started by test_contracts.py in a process of its own.
"""

import pytest
import torch
from kernels.contract import DEVICE

from mosso.kernels import nose_hoover_chain
from mosso.kernels.reference import thermostat

pytestmark = pytest.mark.usefixtures("poisoned_memory")
KELVIN, DT = 0.0258, 0.05


def case(systems: int, links: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(systems + links)

    def random(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(DEVICE)

    freedom_B = torch.randint(3, 300, (systems,), generator=generator).double().to(DEVICE)
    return random(systems, 2, links) - 0.5, random(systems, links) + 0.1, KELVIN * freedom_B * (random(systems) + 0.5), freedom_B


@pytest.mark.parametrize("links", [1, 2, 3, 5])
@pytest.mark.parametrize("systems", [0, 1, 32, 41])
def test_equals_the_reference(systems: int, links: int) -> None:
    arguments = case(systems, links)
    for got, want in zip(
        nose_hoover_chain(*arguments, KELVIN, DT, "triton"), thermostat.nose_hoover_chain(*arguments, KELVIN, DT), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-13, atol=1e-14)


def test_a_system_has_the_same_bits_in_any_batch() -> None:
    arguments = case(40, 3)
    chain, scale = nose_hoover_chain(*arguments, KELVIN, DT, "triton")
    alone, alone_scale = nose_hoover_chain(*(t[37:38] for t in arguments), KELVIN, DT, "triton")
    assert torch.equal(alone, chain[37:38]) and torch.equal(alone_scale, scale[37:38])


def test_there_and_back() -> None:
    """The chain is reversible: with velocities turned, and the energy it made, it returns."""
    chain, mass, twice_kinetic, freedom = case(5, 3)
    after, scale = nose_hoover_chain(chain, mass, twice_kinetic, freedom, KELVIN, DT, "triton")
    turn = torch.tensor([1.0, -1.0], dtype=torch.float64, device=DEVICE).view(1, 2, 1)
    back, scale_back = nose_hoover_chain(after * turn, mass, twice_kinetic * scale.square(), freedom, KELVIN, DT, "triton")
    torch.testing.assert_close(back * turn, chain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scale * scale_back, torch.ones_like(scale), rtol=1e-12, atol=0.0)
