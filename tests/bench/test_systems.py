"""The systems: their sizes, densities and bonds, and that the structures of a batch differ."""

from pathlib import Path

import numpy as np
import pytest

from mosso.bench.matrix import MATERIALS
from mosso.bench.systems import MOLECULES, SYSTEMS, WATER, NamedSystem, chain, crystal, from_files, water_box
from mosso.data.structure import Batch, Structure
from mosso.graph.neighbors import neighbor_list

VALENCES = {1: 1, 6: 4, 8: 2}


def distances(structure: Structure) -> np.ndarray:
    apart = np.linalg.norm(structure.positions[:, None] - structure.positions, axis=-1)
    return apart + 1e3 * np.eye(len(structure))


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name[0] in "CW" and name[1:].isdigit()])
def test_names_count_atoms(name: str) -> None:
    (structure,) = SYSTEMS[name].structures(1)
    assert len(structure) == int(name[1:])
    assert (structure.volume > 0) == SYSTEMS[name].periodic


def test_copies_are_of_one_displaced_box() -> None:
    """And each structure of a batch is of a box of its own."""
    small = NamedSystem(SYSTEMS["W24"].make, "copies", repeats=(1, 2, 3))
    first, second = small.structures(2)
    (box, other) = small.cells(2)
    assert len(first) == 6 * len(box) and first.volume == pytest.approx(6 * box.volume)
    assert np.allclose(first.positions[:24], box.positions) and np.allclose(second.positions[:24], other.positions)
    shifts = first.positions.reshape(6, 24, 3) - box.positions
    assert np.allclose(shifts, shifts[:, :1]), "every atom of a copy is moved by the same vector"


def test_sizes_of_the_issue_are_there() -> None:
    assert {"C8", "C64", "C216", "C512", "C1000", "W24", "W648", "W5184", "Cu64", "mixed"} <= set(SYSTEMS)
    assert set(MOLECULES.values()) == {25, 50, 100}


@pytest.mark.parametrize("name", ["W24", "W192", "W1536"])
def test_water_has_the_density_of_water(name: str) -> None:
    structure = SYSTEMS[name].make(0)
    assert WATER[name] ** 3 * 18.015 / 0.602214 / structure.volume == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("count", [8, 9, 10, 25, 50, 100])
def test_chains_are_molecules(count: int) -> None:
    """Every atom has as many neighbours at bond length as its valence, at lengths of bonds, and nothing else is near."""
    molecule = chain(count)
    assert len(molecule) == count and molecule.volume == 0
    apart = distances(molecule)
    assert [(row < 1.7).sum() for row in apart] == [VALENCES[int(z)] for z in molecule.numbers]
    assert apart.min() > 0.9
    hydrogens = molecule.numbers == 1
    assert apart[np.ix_(hydrogens, hydrogens)].min() > 1.6


def test_a_chain_has_a_least_size() -> None:
    with pytest.raises(ValueError, match="too short: give 8 or more"):
        chain(7)


def test_crystals_are_many_kinds_and_none_is_crushed() -> None:
    found = [crystal(copy) for copy in range(64)]
    sizes = [len(structure) for structure in found]
    assert min(sizes) >= 4 and max(sizes) <= 60 and len(set(sizes)) > 10
    assert len({z for structure in found for z in structure.numbers}) > 25
    assert {int(z) for structure in found for z in structure.numbers} <= MATERIALS
    batch = Batch.of(found)
    vectors = neighbor_list(batch, 1.5)
    assert vectors.num_edges == 0, "no two atoms within 1.5 A"
    for structure in found:
        lengths = np.linalg.norm(structure.cell, axis=1)
        assert lengths.max() / lengths.min() < 4


@pytest.mark.parametrize("name", ["Cu64", "W24", "chain25", "mixed"])
def test_structures_of_a_batch_differ_and_come_again(name: str) -> None:
    first, second = SYSTEMS[name].structures(3), SYSTEMS[name].structures(3)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(first, second, strict=True))
    if name != "mixed":
        differ = [np.abs(a.positions - b.positions).max() for a, b in ((first[0], first[1]), (first[1], first[2]))]
        assert min(differ) > 0.05
    assert np.array_equal(SYSTEMS[name].structures(1)[0].positions, first[0].positions), "the first is that of a single one"


def test_atoms_are_off_their_lattice() -> None:
    """Ties among neighbours of a perfect crystal are broken."""
    edges = np.sort(distances(SYSTEMS["Cu64"].structures(1)[0]).ravel())[:200:2]
    assert np.diff(edges).min() > 0


def test_boxes_of_water_grow_molecule_by_molecule() -> None:
    box = water_box((2, 3, 4))
    assert len(box) == 72
    assert 24 * 18.015 / 0.602214 / box.volume == pytest.approx(1.0, abs=2e-3)
    near = neighbor_list(Batch.of([box]), 1.2)
    assert near.num_edges == 2 * 2 * 24, "two bonds a molecule, and none across"


def test_structures_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("2\n\nH 0 0 0\nH 0 0 0.74\n")
    system = from_files({"H2": tmp_path / "a.xyz"})["H2"]
    assert not system.periodic and len(system.structures(1)[0]) == 2
