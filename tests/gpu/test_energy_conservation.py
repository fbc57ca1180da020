"""Constant energy by the fast path: it drifts and fluctuates as with the reference ops in float64, from the same start."""

from pathlib import Path

import numpy as np
import pytest
import torch

import mosso
from mosso.data.readers import read_structures
from mosso.dynamics.integrators import NVE
from mosso.dynamics.simulate import LogRow, simulate
from mosso.engine.potential import Potential
from mosso.kernels import dispatch
from mosso.models.tabulated_mace import TabulatedMACE

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda")
WATER = Path(__file__).parents[2] / "examples" / "water24.extxyz"
NUM_STEPS = 1000
# What rounding may add. Forces off by 1e-6 of their size part the trajectories by less than 1e-4 A in half a picosecond, so that the
# error of the integrator, which both make, is the same to a few digits; a force that is not the derivative of the energy shows at once.
DRIFT = 2e-6  # eV/atom/ps
FLUCTUATION = 0.03  # of its standard deviation


def energies(potential: Potential) -> tuple[np.ndarray, np.ndarray]:
    """Times (ps) and total energies per atom (eV)."""
    rows: list[LogRow] = []
    (water,) = read_structures(WATER, index=0)
    options = {"timestep": 0.5, "temperature_init": 300.0, "seed": 1, "log_every": 2, "write_every": NUM_STEPS}
    simulate(potential, [water], NVE(), num_steps=NUM_STEPS, on_log=rows.append, **options)
    assert len(rows) == NUM_STEPS // 2 + 1
    return np.array([row.time for row in rows]), np.array([row.total_energy[0] for row in rows]) / len(water)


def test_drift_and_fluctuation_are_those_of_the_reference() -> None:
    fast = mosso.load("mosso-xtb-s", device=DEVICE, precision="fp32")
    assert isinstance(fast.evaluator, TabulatedMACE)
    time, energy = energies(fast)
    with dispatch.prefer("reference"):
        reference = mosso.load("mosso-xtb-s", device=DEVICE, precision="fp64")
        assert reference.evaluator is reference.model
        time_of_reference, energy_of_reference = energies(reference)
    assert np.array_equal(time, time_of_reference)
    drift, drift_of_reference = (np.polyfit(time, e, 1)[0] for e in (energy, energy_of_reference))
    assert abs(drift - drift_of_reference) < DRIFT, f"{drift:.2e} eV/atom/ps, and {drift_of_reference:.2e} of the reference"
    assert energy.std() == pytest.approx(energy_of_reference.std(), rel=FLUCTUATION)
