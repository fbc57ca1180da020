"""The model that ships with the package: it loads by name, knows its atoms, passes the contract, and is as good as its card says."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from shared_files import shared_file
from systems import water_box

import mosso
from mosso import testing
from mosso.data.readers import read_structures
from mosso.data.structure import Structure
from mosso.dynamics.integrators import NVE
from mosso.dynamics.relax import relax
from mosso.dynamics.simulate import LogRow, simulate
from mosso.weights import store

GFN2_ATOMS = {1: -10.707211, 6: -48.847445, 8: -102.571173}  # eV
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def pot() -> mosso.Potential:
    return mosso.load("mosso-xtb-s", device="cpu", precision="fp64")


def test_the_shipped_file_is_the_one_in_the_table() -> None:
    assert hashlib.sha256(store.fetch("mosso-xtb-s").read_bytes()).hexdigest() == store.find("mosso-xtb-s").sha256


def test_isolated_atoms_have_their_gfn2_energy(pot: mosso.Potential) -> None:
    assert pot.species == (1, 6, 7, 8)
    for number, energy in GFN2_ATOMS.items():
        assert float(pot(Structure(np.array([number]), np.zeros((1, 3)))).energy) == pytest.approx(energy, abs=1e-4)


def test_contract(pot: mosso.Potential) -> None:
    small_box = read_structures(EXAMPLES / "water24.extxyz")[0]
    testing.check_contract(pot, [Structure.of(molecule("CH3CONH2")), small_box])


def test_water_molecule_has_its_shape(pot: mosso.Potential) -> None:
    """GFN2-xTB's water: r(OH) = 0.96 A, angle 107 degrees."""
    result = relax(pot, [Structure.of(molecule("H2O"))], fmax=1e-3, steps=200)
    assert bool(result.converged[0])
    oxygen, first, second = result.structures[0].positions
    a, b = first - oxygen, second - oxygen
    assert np.linalg.norm(a) == pytest.approx(0.96, abs=0.01)
    assert np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))) == pytest.approx(107, abs=3)


def test_reaction_energy_has_the_right_sign(pot: mosso.Potential) -> None:
    """Two water molecules bind, by a few tenths of an eV."""
    waters = read_structures(EXAMPLES / "water24.extxyz")[0]
    assert float(pot(waters).energy) < 24 * float(pot(molecule("H2O")).energy)


def test_force_error_on_frames_never_trained_on(pot: mosso.Potential) -> None:
    frames = read_structures(shared_file("data/solvent_xtb_test.xyz"), index="::25", energy_key="energy_xtb", forces_key="forces_xtb")
    got = pot(frames, stress=False)
    want = np.concatenate([frame.labels["forces"] for frame in frames])
    rmse = float(np.sqrt(np.mean((got.forces.numpy() - want) ** 2)))
    assert rmse < 0.150, f"force RMSE {1e3 * rmse:.0f} meV/A"


@pytest.mark.slow
def test_force_error_on_the_whole_test_set() -> None:
    single = mosso.load("mosso-xtb-s", device="cpu", precision="fp32")
    frames = read_structures(shared_file("data/solvent_xtb_test.xyz"), energy_key="energy_xtb", forces_key="forces_xtb")
    errors = [
        single(frames[i : i + 20], stress=False).forces.numpy() - np.concatenate([f.labels["forces"] for f in frames[i : i + 20]])
        for i in range(0, len(frames), 20)
    ]
    assert np.sqrt(np.mean(np.concatenate(errors) ** 2)) < 0.150


@pytest.mark.slow
def test_energy_is_conserved(pot: mosso.Potential) -> None:
    """Half a picosecond of ethanol: total energy stays within the oscillation of the integrator. The 10 ps run is in results/."""
    relaxed = relax(pot, [Structure.of(molecule("CH3CH2OH"))], fmax=0.01, steps=300).structures
    rows: list[LogRow] = []
    simulate(pot, relaxed, NVE(), num_steps=1000, timestep=0.5, temperature_init=300.0, seed=3, log_every=10, on_log=rows.append)
    per_atom = np.array([float(row.total_energy[0]) for row in rows]) / 9
    slope = np.polyfit([row.time for row in rows], per_atom, 1)[0]
    assert abs(slope) < 2e-4
    assert np.ptp(per_atom) < 1e-3


def test_fp32_agrees_with_fp64(pot: mosso.Potential) -> None:
    single = mosso.load("mosso-xtb-s", device="cpu", precision="fp32")
    box = water_box(2, seed=1)
    exact, rounded = pot(box), single(box)
    torch.testing.assert_close(rounded.forces, exact.forces, rtol=0, atol=1e-5 * float(exact.forces.abs().max()))
    assert float(rounded.energy) == pytest.approx(float(exact.energy), rel=1e-7)
