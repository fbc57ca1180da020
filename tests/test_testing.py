"""The shipped contract checks, on every architecture, and proof that each check can fail."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from models.zoo import E0, SPECS, potential

from mosso import testing
from mosso.data.structure import Structure
from mosso.models.outputs import Output

RNG = np.random.default_rng(7)
MOLECULE = Structure(
    [8, 1, 1, 6, 8], RNG.normal(scale=0.25, size=(5, 3)) + np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.3], [0, 1.2, 1.8]])
)
CRYSTAL = Structure(
    [6, 6, 1, 8],
    RNG.normal(scale=0.1, size=(4, 3)) + np.array([[0, 0, 0], [1.2, 1.2, 0.2], [0.1, 1.3, 1.4], [1.4, 0, 1.3]]),
    cell=[[2.7, 0.1, 0], [0.2, 2.8, -0.1], [-0.3, 0.2, 2.9]],
    pbc=True,
)
SLAB = replace(CRYSTAL, cell=np.diag([2.7, 2.8, 12.0]), pbc=[True, True, False])
STRUCTURES = {"molecule": MOLECULE, "crystal smaller than the cutoff": CRYSTAL, "slab": SLAB}


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES.keys())
@pytest.mark.parametrize("check", testing.CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", SPECS)
def test_contract(name: str, check, structure: Structure) -> None:
    check(potential(name), structure)


@pytest.mark.parametrize("name", SPECS)
def test_stress(name: str) -> None:
    for structure in (CRYSTAL, SLAB):
        testing.check_stress(potential(name), structure)


@pytest.mark.parametrize("name", SPECS)
def test_batch_equals_single_and_smooth_cutoff(name: str) -> None:
    testing.check_batch(potential(name), list(STRUCTURES.values()))
    testing.check_smooth_cutoff(potential(name))


@pytest.mark.parametrize("name", ["mace-plain", "mace-density-agnesi-zbl"])
def test_single_precision(name: str) -> None:
    testing.check_contract(potential(name, "fp32"), [MOLECULE, CRYSTAL])


@pytest.mark.parametrize("name", SPECS)
def test_isolated_atom(name: str) -> None:
    """E0 and the shift exactly where the first interaction is not residual; otherwise the element's own energy on top."""
    pot = potential(name)
    for number in SPECS[name].species:
        energy = float(pot(Structure([number], [[0.3, 0.2, 0.1]])).energy)
        shift = 0.0 if not SPECS[name].scale_shift else float(pot.model.scale_shift.shift[-1])
        if SPECS[name].interactions[0].endswith("Residual"):
            assert energy != E0[number] + shift
        else:
            assert energy == E0[number] + shift


@pytest.mark.parametrize("name", SPECS)
def test_hessian_is_symmetric_and_the_derivative_of_the_forces(name: str) -> None:
    pot = potential(name)
    for structure in (MOLECULE, CRYSTAL):
        hessian = pot.hessian(structure).numpy()
        scale = np.abs(hessian).max()
        assert np.abs(hessian - hessian.T).max() < 1e-11 * scale
        step = 1e-4
        for atom, axis in ((0, 0), (2, 1)):
            moved = [structure.positions.copy(), structure.positions.copy()]
            moved[0][atom, axis] += step
            moved[1][atom, axis] -= step
            up, down = (pot(replace(structure, positions=p)).forces.numpy().ravel() for p in moved)
            assert np.abs(-(up - down) / (2 * step) - hessian[3 * atom + axis]).max() < 1e-5 * scale


def test_virials_sum_to_the_stress() -> None:
    output = potential("mace-plain")(CRYSTAL, virials=True)
    total = -output.virials.sum(0) / CRYSTAL.volume
    torch.testing.assert_close(0.5 * (total + total.T), output.stress, rtol=1e-12, atol=1e-14)


class Broken:
    """A potential whose outputs are spoilt on the way out."""

    def __init__(self, spoil) -> None:
        self._inner, self._spoil = potential("mace-plain"), spoil

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def __call__(self, structures, **options) -> Output:
        return self._spoil(self._inner(structures, **options), structures)


def _scale_forces(output: Output, _: object) -> Output:
    return output if output.forces is None else replace(output, forces=output.forces * 1.01)


def _depend_on_direction(output: Output, structure: Structure) -> Output:
    return replace(output, energy=output.energy + 1e-4 * float(structure.positions[0, 0]))


def _scale_stress(output: Output, _: object) -> Output:
    return output if output.stress is None else replace(output, stress=output.stress * 1.001)


@pytest.mark.parametrize(
    ("check", "spoil"),
    [
        (testing.check_forces, _scale_forces),
        (testing.check_stress, _scale_stress),
        (testing.check_rotation, _depend_on_direction),
        (testing.check_inversion, _depend_on_direction),
        (testing.check_translation, _depend_on_direction),
        (testing.check_permutation, _depend_on_direction),
        (testing.check_extensivity, _depend_on_direction),
    ],
)
def test_a_broken_potential_fails(check, spoil) -> None:
    with pytest.raises(AssertionError, match="differs by"):
        check(Broken(spoil), CRYSTAL)
