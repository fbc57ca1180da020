"""What a CUDA device computes is what the CPU computes."""

import numpy as np
import pytest
import torch
from models.zoo import SPECS, potential
from systems import awkward, water_box

import mosso
from mosso.data.structure import Batch, Structure
from mosso.dynamics.integrators import Langevin
from mosso.dynamics.simulate import simulate
from mosso.graph.neighbors import neighbor_list

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def mixed_batch() -> list[Structure]:
    box = water_box(2, seed=3)
    molecule = Structure(np.array([6, 8, 1, 1]), np.array([[0, 0, 0], [1.2, 0, 0], [-0.6, 0.9, 0.1], [-0.6, -0.9, 0.0]]))
    return [box, molecule, Structure(np.array([8]), np.zeros((1, 3)))]


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("name", SPECS)
def test_outputs_equal_those_of_the_cpu(name: str, precision: str) -> None:
    cpu, cuda = (potential(name, precision, device=device)(mixed_batch()) for device in ("cpu", "cuda"))
    tolerance = 1e-10 if precision == "fp64" else 1e-5
    torch.testing.assert_close(cuda.energy.cpu(), cpu.energy, rtol=tolerance, atol=0)
    scale = float(cpu.forces.abs().max())
    torch.testing.assert_close(cuda.forces.cpu(), cpu.forces, rtol=0, atol=tolerance * scale)
    torch.testing.assert_close(cuda.stress[0].cpu(), cpu.stress[0], rtol=0, atol=tolerance * float(cpu.stress[0].abs().max()))


@pytest.mark.parametrize("cutoff", [1.5, 4.0])
def test_neighbours_equal_those_of_the_cpu(cutoff: float) -> None:
    for name, structure in awkward(cutoff).items():
        here, there = (neighbor_list(Batch.of([structure], device), cutoff) for device in ("cpu", "cuda"))
        for field in ("senders_E", "receivers_E", "shifts_E3", "receiver_offsets", "transpose_E", "sender_offsets"):
            assert torch.equal(getattr(here, field), getattr(there, field).cpu()), f"{name}: {field}"


def test_dynamics_follow_the_cpu() -> None:
    states = []
    for device in ("cpu", "cuda"):
        pot = mosso.load("mosso-xtb-s", device=device, precision="fp64")
        states.append(simulate(pot, [water_box(2, seed=1)], Langevin(300.0), num_steps=20, timestep=0.5, temperature_init=300.0, seed=4))
    cpu, cuda = states
    torch.testing.assert_close(cuda.batch.positions_N3.cpu(), cpu.batch.positions_N3, rtol=0, atol=1e-9)
