"""What the Triton edge vectors promise: the bits of the reference, padding included."""

import pytest
import torch
from kernels.contract import DEVICE, spread

from mosso import kernels
from mosso.kernels import reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def inputs(num_atoms: int, num_edges: int, num_real: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(num_atoms + num_edges)
    positions = 10.0 * torch.randn(num_atoms, 3, dtype=torch.float64, generator=generator)
    cells = 5.0 * torch.randn(3, 3, 3, dtype=torch.float64, generator=generator)
    systems = torch.arange(num_atoms) * 3 // max(num_atoms, 1)
    senders = torch.randint(max(num_atoms, 1), (num_edges,), generator=generator)
    receivers = torch.randint(max(num_atoms, 1), (num_edges,), generator=generator).sort()[0]
    shifts = torch.randint(-4, 5, (num_edges, 3), generator=generator)
    offsets = torch.searchsorted(receivers[:num_real], torch.arange(num_atoms + 1))
    return tuple(t.to(DEVICE) for t in (positions, cells, systems, senders, receivers, shifts, offsets))


@pytest.mark.parametrize(("num_atoms", "num_edges", "num_real"), [(7, 300, 300), (7, 300, 129), (1, 5, 0), (3, 0, 0), (5, 1, 1)])
def test_equal_to_the_reference_bit_for_bit(num_atoms: int, num_edges: int, num_real: int) -> None:
    arguments = inputs(num_atoms, num_edges, num_real)
    got = kernels.edge_vectors(*arguments, 4.5, implementation="triton")
    assert torch.equal(got, reference.edge_vectors(*arguments, 4.5))


def test_non_contiguous_inputs() -> None:
    arguments = inputs(6, 100, 100)
    got = kernels.edge_vectors(*spread(arguments), 4.5, implementation="triton")
    assert torch.equal(got, reference.edge_vectors(*arguments, 4.5))
