"""Structure and Batch: what they accept, refuse and promise."""

import numpy as np
import pytest
import torch
from ase import Atoms
from systems import awkward, copper, lattice, water_box, water_molecule

from mosso.data.structure import Batch, Structure, periodic_volume


def test_defaults_and_types() -> None:
    structure = Structure([8, 1], [[0, 0, 0], [0, 0, 1]])
    assert (structure.numbers.dtype, structure.positions.dtype, structure.cell.dtype, structure.pbc.dtype) == (np.int64, float, float, bool)
    assert (len(structure), structure.charge, structure.spin, structure.volume, structure.pbc.any()) == (2, 0.0, 1, 0.0, False)
    assert np.array_equal(Structure([1], [[0, 0, 0]], [2, 3, 4], True).cell, np.diag([2.0, 3.0, 4.0]))
    assert Structure([], []).positions.shape == (0, 3)


def test_keeps_its_numbers_when_the_source_moves() -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1.0]], cell=[3, 3, 3], pbc=True)
    structure = Structure.of(atoms)
    atoms.positions += 1.0
    atoms.cell[0, 0] = 7.0
    atoms.numbers[0] = 8
    assert structure.positions[0, 0] == 0.0 and structure.cell[0, 0] == 3.0 and structure.numbers[0] == 1


@pytest.mark.parametrize(
    ("info", "charge", "spin"),
    [
        ({}, 0.0, 1),
        ({"charge": -1, "spin": 2}, -1.0, 2),
        ({"total_charge": np.int64(2), "multiplicity": np.int64(3)}, 2.0, 3),
        ({"charge": None, "total_charge": 1}, 1.0, 1),
    ],
)
def test_of_reads_charge_and_spin(info: dict, charge: float, spin: int) -> None:
    structure = Structure.of(Atoms("H", info={**info, "name": "x"}))
    assert (structure.charge, structure.spin, structure.info["name"]) == (charge, spin, "x")
    assert Structure.of(structure) is structure


def test_of_refuses_what_has_no_atoms() -> None:
    with pytest.raises(ValueError, match="Cannot read a structure from str"):
        Structure.of("H2O")
    with pytest.raises(ValueError, match="'charge' of the structure is 'plus one': give one number"):
        Structure.of(Atoms("H", info={"charge": "plus one"}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 1], [[0, 0, 0]]), "2 atomic numbers for 1 positions"),
        (([1, 1], [[0, 0, 0], [0, np.nan, 0]]), "Position of atom 1 is not finite"),
        (([1] * 4, np.zeros((3, 4))), r"shape \(3, 4\): give \(N, 3\)"),
        (([1], np.zeros(3)), r"shape \(3,\): give \(N, 3\)"),
        (([1], [[0, 0, 0]], np.full((3, 3), np.inf)), "cell has entries that are not finite"),
        (([1], [[0, 0, 0]], np.ones(6), True), r"cell has shape \(6,\)"),
        (([1], [[0, 0, 0]], np.zeros((3, 3)), True), "no volume"),
        (([1], [[0, 0, 0]], np.diag([1.0, 1.0, 0.0]), True), "no volume"),
        (([1], [[0, 0, 0]], np.arange(1.0, 10.0).reshape(3, 3), True), "no volume"),  # dependent up to rounding only
        (([1], [[0, 0, 0]], [[1, 0, 0], [2, 0, 0], [0, 0, 1]], (True, True, False)), "no volume"),
    ],
)
def test_refuses_bad_input(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Structure(*arguments)


def test_accepts_thin_and_tiny_cells() -> None:
    for cell in (np.diag([1e-3, 1e-3, 1e3]), lattice(5, 5, 5, 1.0, 1.0, 1.5), 1e-6 * np.eye(3)):
        assert Structure([1], [[0, 0, 0]], cell, True).volume == pytest.approx(abs(np.linalg.det(cell)))
    Structure([1], [[0, 0, 0]], np.diag([1.0, 1.0, 0.0]), (True, True, False))


def test_periodic_volume() -> None:
    cell = lattice(3.0, 4.0, 5.0, 90.0, 90.0, 30.0)
    volumes = [periodic_volume(cell, np.arange(3) < count) for count in range(4)]
    assert volumes == pytest.approx([1.0, 3.0, 6.0, 30.0])
    assert periodic_volume(cell[[1, 0, 2]], np.ones(3, bool)) == pytest.approx(30.0)


def test_batch_lays_systems_side_by_side() -> None:
    structures = list(awkward().values())
    batch = Batch.of(structures)
    assert (batch.num_systems, batch.num_atoms) == (len(structures), sum(map(len, structures)))
    assert (batch.numbers_N.dtype, batch.positions_N3.dtype, batch.cell_B33.dtype, batch.pbc_B3.dtype) == (
        torch.int64, torch.float64, torch.float64, torch.bool,
    )  # fmt: skip
    assert bool((batch.system_N.diff() >= 0).all())
    for system, structure in enumerate(structures):
        atoms = slice(batch.offsets[system], batch.offsets[system + 1])
        assert np.array_equal(batch.numbers_N[atoms], structure.numbers)
        assert np.array_equal(batch.positions_N3[atoms], structure.positions)
        assert np.array_equal(batch.cell_B33[system], structure.cell)
        assert np.array_equal(batch.pbc_B3[system], structure.pbc)
        assert bool((batch.system_N[atoms] == system).all())
        assert float(batch.volume_B[system]) == pytest.approx(structure.volume)


def test_batch_of_nothing() -> None:
    batch = Batch.of(iter([]))
    assert (batch.num_systems, batch.num_atoms, batch.offsets) == (0, 0, (0,))
    assert batch.positions_N3.shape == (0, 3) and batch.cell_B33.shape == (0, 3, 3) and batch.volume_B.shape == (0,)
    assert Batch.of([Structure([], []), water_molecule()]).offsets == (0, 0, 3)


def test_batch_does_not_share_memory_with_structures() -> None:
    structure = copper()
    before = structure.positions.copy()
    Batch.of([structure]).positions_N3.add_(1.0)
    assert np.array_equal(structure.positions, before)


def test_water_box_is_water() -> None:
    box = water_box(3)
    assert len(box) == 81
    oxygen, first, second = (box.positions[i::3] for i in range(3))
    assert np.allclose(np.linalg.norm(first - oxygen, axis=1), 0.9572) and np.allclose(np.linalg.norm(second - oxygen, axis=1), 0.9572)
    assert 27 * 18.015 / box.volume * 1.66054 == pytest.approx(1.0, abs=2e-3)  # g/cm^3
    assert not np.array_equal(water_box(3, seed=1).positions, box.positions)
