"""The contract of the parts of a step of dynamics in Triton: the reference's numbers, the same bits in any batch.

Runs on the GPU where there is one, else under Triton's interpreter; started by test_contracts.py in a process of its own.
"""

import pytest
import torch
from kernels.contract import DEVICE
from torch import Tensor

from mosso.kernels import drift_in_bath, examine, exponential, kick, kinetic_energy, max_norm
from mosso.kernels.reference import motion

pytestmark = pytest.mark.usefixtures("poisoned_memory")
COUNTS = [[1], [5, 0, 300, 1], [257, 128], [0], [], [1] * 40, [9000, 3]]
BATH = (1, 0.05, 0.02, 0.0258)  # stream, dt, decay, kT
EXACT = {"rtol": 1e-13, "atol": 1e-13}


class Atoms:
    """Random atoms of several systems; every seventh does not move."""

    def __init__(self, counts: list[int], step: int = 7) -> None:
        generator, total = torch.Generator().manual_seed(sum(counts) + len(counts)), sum(counts)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=torch.float64, generator=generator).to(DEVICE)

        self.counts_B = torch.tensor(counts, dtype=torch.int64, device=DEVICE)
        self.positions_N3, self.momenta_N3, self.forces_N3 = random(total, 3), random(total, 3), random(total, 3)
        self.masses_N = random(total).abs() + 0.5
        self.free_N = torch.arange(total, device=DEVICE) % 7 != 2
        self.system_N = torch.repeat_interleave(torch.arange(len(counts), device=DEVICE), self.counts_B)
        self.index_N = torch.cat([torch.arange(count, device=DEVICE) for count in [0, *counts]])
        self.seeds_B = torch.arange(len(counts), device=DEVICE) * 2**33 + 11
        self.step = torch.tensor(step, device=DEVICE)

    @property
    def bath(self) -> tuple[Tensor, ...]:
        atoms = (self.positions_N3, self.momenta_N3, self.masses_N, self.free_N)
        return (*atoms, self.system_N, self.index_N, self.seeds_B, self.step)


@pytest.mark.parametrize("counts", COUNTS)
def test_equal_to_the_reference(counts: list[int]) -> None:
    atoms = Atoms(counts)
    pushed = atoms.momenta_N3, atoms.forces_N3, atoms.free_N, 0.05
    torch.testing.assert_close(kick(*pushed, "triton"), motion.kick(*pushed), **EXACT)
    moving = atoms.momenta_N3, atoms.masses_N, atoms.counts_B
    torch.testing.assert_close(kinetic_energy(*moving, "triton"), motion.kinetic_energy(*moving), **EXACT)
    for got, want in zip(drift_in_bath(*atoms.bath, *BATH, "triton"), motion.drift_in_bath(*atoms.bath, *BATH), strict=True):
        torch.testing.assert_close(got, want, **EXACT)


def vectors_of(atoms: Atoms) -> Tensor:
    """Forces of which one that counts is not a number, and one that does not."""
    vectors_N3 = atoms.forces_N3.clone()
    if len(vectors_N3) > 3:
        vectors_N3[2, 1] = vectors_N3[-1, 0] = torch.nan
    return vectors_N3


@pytest.mark.parametrize("counts", COUNTS)
def test_longest_vectors(counts: list[int]) -> None:
    atoms = Atoms(counts)
    for vectors in (atoms.forces_N3, vectors_of(atoms)):
        asked = vectors, atoms.free_N, atoms.counts_B
        torch.testing.assert_close(max_norm(*asked, "triton"), motion.max_norm(*asked), **EXACT, equal_nan=True)


@pytest.mark.parametrize("num_systems", [0, 1, 7, 300])
def test_what_is_out_of_reason_is_kept(num_systems: int) -> None:
    generator = torch.Generator().manual_seed(num_systems)
    energy, kinetic, force = torch.randn(3, num_systems, dtype=torch.float64, generator=generator).abs().to(DEVICE)
    freedom = torch.arange(1, num_systems + 1, device=DEVICE).double()
    for index, bad in enumerate((torch.nan, torch.inf, -torch.inf, torch.nan, torch.nan, 50.0, 50.0)[:num_systems]):
        (energy, energy, energy, kinetic, force, kinetic, force)[index][index] = bad
    limits, before = (0.5, 40.0, 30.0), None
    for step in (3, 4, 5):
        asked = energy, kinetic, freedom, force, torch.tensor(step, device=DEVICE), before, *limits
        want = motion.examine(*asked)
        torch.testing.assert_close(examine(*asked, "triton"), want, **EXACT, equal_nan=True)
        before, energy = want, energy.where(torch.arange(num_systems, device=DEVICE) % 50 != step, torch.nan)
    if num_systems == 7:
        assert before[0].tolist() == [3.0, 3.0, 3.0, 3.0, 3.0, -1.0, 3.0]


def test_without_a_bath_it_is_a_drift() -> None:
    atoms = Atoms([200])
    positions, momenta, heat = drift_in_bath(*atoms.bath, 1, 0.05, 0.0, 0.0258, "triton")
    assert torch.equal(momenta, atoms.momenta_N3)
    assert not heat.any()
    torch.testing.assert_close(positions, atoms.positions_N3 + 0.05 * atoms.momenta_N3 / atoms.masses_N.unsqueeze(1), **EXACT)


def test_late_steps_have_other_noise() -> None:
    early, late = Atoms([30], step=5), Atoms([30], step=5 + 2**32)
    assert not torch.equal(drift_in_bath(*early.bath, *BATH, "triton")[1], drift_in_bath(*late.bath, *BATH, "triton")[1])
    torch.testing.assert_close(drift_in_bath(*late.bath, *BATH, "triton")[1], motion.drift_in_bath(*late.bath, *BATH)[1], **EXACT)


def test_a_system_has_the_same_bits_in_any_batch() -> None:
    atoms = Atoms([100, 600])
    alone = kinetic_energy(atoms.momenta_N3[100:], atoms.masses_N[100:], atoms.counts_B[1:], "triton")
    assert torch.equal(alone[0], kinetic_energy(atoms.momenta_N3, atoms.masses_N, atoms.counts_B, "triton")[1])


def test_what_is_not_contiguous_is_taken() -> None:
    atoms = Atoms([50])
    columns = atoms.momenta_N3.T.contiguous().T
    assert torch.equal(
        kick(columns, atoms.forces_N3, atoms.free_N, 0.1, "triton"), kick(atoms.momenta_N3, atoms.forces_N3, atoms.free_N, 0.1, "triton")
    )
    got = kinetic_energy(columns, atoms.masses_N, atoms.counts_B, "triton")
    assert torch.equal(got, kinetic_energy(atoms.momenta_N3, atoms.masses_N, atoms.counts_B, "triton"))


@pytest.mark.parametrize("systems", [0, 1, 32, 40])
def test_exponential(systems: int) -> None:
    u_B33 = 0.5 * torch.randn(systems, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(systems)).to(DEVICE)
    got = exponential(u_B33, "triton")
    torch.testing.assert_close(got, motion.exponential(u_B33), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(exponential(u_B33.mT, "triton"), got.mT, rtol=1e-12, atol=1e-13)
