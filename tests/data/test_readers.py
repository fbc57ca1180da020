"""Reading structures: formats, labels, and one clear sentence for every bad input."""

import gzip
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from systems import copper, water_molecule

from mosso.data.readers import read_structures, to_atoms
from mosso.data.structure import Structure

FORCES = np.arange(9.0).reshape(3, 3)
STRESS = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
VOIGT = np.arange(1.0, 7.0)
ONE = '1\nLattice="3 0 0 0 3 0 0 0 3" pbc="T T T" {comment}\nH 0 0 0\n'


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def water(**results: object) -> Atoms:
    atoms = to_atoms(water_molecule())
    atoms.set_cell([9.0, 9.0, 9.0])
    atoms.pbc = True
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def text(name: str, content: str) -> str:
    Path(name).write_text(content)
    return name


@pytest.mark.parametrize(
    "name", ["a.extxyz", "a.xyz", "a.extxyz.gz", "a.xyz.gz", "a.traj", "a.db", "a.json", "a.cif", "POSCAR", "a.vasp", "a@b.xyz"]
)
def test_formats(name: str) -> None:
    ase.io.write(name, water())
    (structure,) = read_structures(name)
    assert sorted(structure.numbers) == [1, 1, 8]
    bonds = structure.positions[structure.numbers == 1] - structure.positions[structure.numbers == 8]
    bonds -= 9.0 * np.round(bonds / 9.0)  # some formats wrap atoms into the cell
    assert np.linalg.norm(bonds, axis=1) == pytest.approx(0.9572, abs=1e-5)
    assert np.allclose(np.abs(structure.cell), 9.0 * np.eye(3)) and structure.pbc.all()


@pytest.mark.parametrize("name", ["a.extxyz", "a.extxyz.gz", "a.traj", "a.db"])
def test_labels_of_the_calculator(name: str) -> None:
    ase.io.write(name, [water(energy=-3.5, forces=FORCES, stress=VOIGT), water(energy=1.0), water()])
    first, second, third = read_structures(name)
    assert first.labels["energy"] == -3.5 and type(first.labels["energy"]) is float
    assert np.array_equal(first.labels["forces"], FORCES)
    assert np.array_equal(first.labels["stress"], STRESS)
    assert (second.labels, third.labels) == ({"energy": 1.0}, {})


def test_labels_are_not_changed_by_constraints() -> None:
    atoms = water(energy=0.0, forces=FORCES)
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    ase.io.write("a.traj", atoms)
    assert np.array_equal(read_structures("a.traj")[0].labels["forces"], FORCES)


def test_named_labels() -> None:
    atoms = water(energy=1.0, forces=np.zeros((3, 3)))
    atoms.info.update(REF_energy=-7.0, REF_stress=STRESS, energy_xtb=np.float32(5.0))
    atoms.arrays["REF_forces"] = FORCES
    ase.io.write("a.extxyz", atoms)
    (named,) = read_structures("a.extxyz", energy_key="REF_energy", forces_key="REF_forces", stress_key="REF_stress")
    assert named.labels["energy"] == -7.0
    assert np.array_equal(named.labels["forces"], FORCES) and np.array_equal(named.labels["stress"], STRESS)
    (mixed,) = read_structures("a.extxyz", energy_key="energy_xtb")
    assert mixed.labels["energy"] == 5.0 and not mixed.labels["forces"].any() and "stress" not in mixed.labels
    (moved,) = read_structures("a.extxyz", energy_key="energy", forces_key="forces")  # names that ASE takes out of the frame
    assert moved.labels["energy"] == 1.0 and not moved.labels["forces"].any()


def test_database_pairs_and_data() -> None:
    with connect("a.db") as database:
        database.write(water(), key_value_pairs={"e_ref": 2.5, "total_charge": 1}, data={"f_ref": FORCES})
        database.write(water(), key_value_pairs={"e_ref": 3.5}, data={"f_ref": FORCES + 1})
    first, second = read_structures("a.db", energy_key="e_ref", forces_key="f_ref")
    assert (first.labels["energy"], second.labels["energy"], first.charge) == (2.5, 3.5, 1.0)
    assert np.array_equal(second.labels["forces"], FORCES + 1)
    assert read_structures("a.db", -1, energy_key="e_ref")[0].labels["energy"] == 3.5
    with pytest.raises(ValueError, match=r"no frame 2"):
        read_structures("a.db", 2)


def test_database_charge_that_ase_hides() -> None:
    with connect("a.db") as database:
        database.write(water(), key_value_pairs={"charge": 1, "total_charge": 2})
    with pytest.warns(UserWarning, match="store the charge as 'total_charge'"):
        assert read_structures("a.db")[0].charge == 2.0


@pytest.mark.parametrize("value", ["1 6 5 6 2 4 5 4 3", "1 2 3 4 5 6"])
def test_stress_notations(value: str) -> None:
    name = text("a.extxyz", ONE.format(comment=f'REF_stress="{value}"'))
    assert np.array_equal(read_structures(name, stress_key="REF_stress")[0].labels["stress"], STRESS)


def test_stress_keeps_the_sign_of_ase() -> None:
    """Tension positive: a stretched solid has a positive stress and a negative pressure."""
    atoms = water(stress=np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))
    ase.io.write("a.extxyz", atoms)
    assert np.array_equal(read_structures("a.extxyz")[0].labels["stress"], atoms.get_stress(voigt=False))
    assert read_structures("a.extxyz")[0].labels["stress"].trace() == 3.0


def test_charge_spin_and_info() -> None:
    lines = ["charge=-1 spin=2 group=ions", "total_charge=2 multiplicity=3", 'weights="1 2"']
    first, second, third = read_structures(text("a.extxyz", "".join(ONE.format(comment=line) for line in lines)))
    assert [(s.charge, s.spin) for s in (first, second, third)] == [(-1.0, 2), (2.0, 3), (0.0, 1)]
    assert first.info["group"] == "ions" and third.info["weights"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("index", "expected"), [(":", [0, 1, 2, 3]), (1, [1]), ("-1", [3]), ("1:3", [1, 2]), (slice(None, None, 2), [0, 2])]
)
def test_index(index: str | int | slice, expected: list[int]) -> None:
    name = text("a.extxyz", "".join(ONE.format(comment=f"energy={n}") for n in range(4)))
    assert [s.labels["energy"] for s in read_structures(name, index)] == expected


def test_empty_structure() -> None:
    ase.io.write("a.extxyz", [Atoms(), water()])
    assert [len(s) for s in read_structures("a.extxyz")] == [0, 3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.lmdb", "x", "LMDB data sets are not supported yet, convert it to extxyz"),
        ("a.extxyz", "", "a.extxyz is empty"),
        ("a.extxyz", "\n\n", "a.extxyz has no frames"),
        ("a.extxyz", "hello\nworld\n", "a.extxyz cannot be read .*Expected xyz header.*check that the file is complete"),
        ("a.extxyz", "3\n\nH 0 0 0\nH 0 0 1\n", "cannot be read .*Frame has 2 atoms, expected 3"),
        ("a.extxyz", "1\n\nQq 0 0 0\n", "cannot be read .*Qq"),
        ("a.cif", "hello", "a.cif cannot be read"),
        ("a.traj", "hello" * 20, "a.traj cannot be read .*ULM"),
        ("a.db", "hello" * 20, "a.db cannot be read .*not a database"),
        ("POSCAR", "hello", "POSCAR cannot be read"),
        ("a.xyz.gz", "1\n\nH 0 0 0\n", "a.xyz.gz cannot be read .*Not a gzipped file"),
        ("a.unknown", "hello\nworld", "a.unknown"),
        ("a.extxyz", ONE.format(comment="") + "2\n\nH 0 0 0\nH 0 nan 0\n", r"a.extxyz, frame 1: Position of atom 1 is not finite"),
        ("a.extxyz", ONE.format(comment="charge=lots"), "frame 0: 'charge' of the structure is 'lots'"),
        ("a.extxyz", '1\nLattice="3 0 0 0 3 0 3 3 0"\nH 0 0 0\n', "frame 0: The cell has no volume"),
        ("a.extxyz", ONE.format(comment='energy="1 2"'), r"the energy label 'energy' has shape \(2,\), expected \(\)"),
        ("a.extxyz", ONE.format(comment="energy=nan"), "the energy label 'energy' is not finite"),
        ("a.extxyz", ONE.format(comment="energy=low"), "the energy label 'energy' is not a number but 'low'"),
        ("a.extxyz", "1\nProperties=species:S:1:pos:R:3:forces:R:2\nH 0 0 0 1 2\n", r"'forces' has shape \(1, 2\), expected \(1, 3\)"),
    ],
)
def test_bad_files(name: str, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_structures(text(name, content))
    assert "\n" not in str(caught.value)


def test_bad_paths() -> None:
    with pytest.raises(FileNotFoundError, match="There is no file nowhere.xyz"):
        read_structures("nowhere.xyz")
    Path("folder").mkdir()
    with pytest.raises(ValueError, match="folder is a folder: give the path"):
        read_structures("folder")
    Path("data.lmdb").mkdir()
    with pytest.raises(ValueError, match="LMDB"):
        read_structures("data.lmdb")
    with gzip.open("empty.xyz.gz", "wb"):
        pass
    with pytest.raises(ValueError, match="empty.xyz.gz is empty"):
        read_structures("empty.xyz.gz")


def test_bad_selections() -> None:
    name = text("a.extxyz", ONE.format(comment=""))
    with pytest.raises(ValueError, match="has no frame 5"):
        read_structures(name, 5)
    with pytest.raises(ValueError, match="no frames in the range"):
        read_structures(name, "3:4")
    with pytest.raises(ValueError, match="frame index 'last' is not understood"):
        read_structures(name, "last")


def test_frames_are_named_by_their_place_in_the_file() -> None:
    name = text("a.extxyz", ONE.format(comment="") * 5 + "1\n\nH nan 0 0\n")
    for index, expected in ((":", "frame 5"), ("3:", "frame 5"), ("1::2", "frame 5"), (5, "frame 5"), ("-2:", "frame 1 of the selection")):
        with pytest.raises(ValueError, match=f"a.extxyz, {expected}: Position of atom 0"):
            read_structures(name, index)


def test_absent_labels() -> None:
    name = text("a.extxyz", ONE.format(comment="REF_energy=1 dft_energy=2") + ONE.format(comment="dft_energy=2 group=x"))
    with pytest.raises(ValueError, match="frame 1: there are no energy labels called 'REF_energy'; the frame has dft_energy, group"):
        read_structures(name, energy_key="REF_energy")
    with pytest.raises(ValueError, match="frame 0: there are no forces labels called 'REF_forces'; the frame has REF_energy, dft_energy"):
        read_structures(name, forces_key="REF_forces")
    with pytest.raises(ValueError, match="no stress labels called 'REF_stress'"):
        read_structures(name, stress_key="REF_stress")
    with pytest.raises(ValueError, match="stress = -virial / volume"):
        read_structures(name, stress_key="REF_virial")
    bare = text("b.xyz", "1\n\nH 0 0 0\n")
    with pytest.raises(ValueError, match="'REF_energy'; the frame has no labels at all"):
        read_structures(bare, energy_key="REF_energy")
    assert read_structures(bare, stress_key="REF_stress")[0].labels == {}  # a molecule needs no stress
    wrong = text("c.extxyz", ONE.format(comment='REF_stress="1 2 3"'))
    with pytest.raises(ValueError, match=r"the stress label 'REF_stress' has shape \(3,\), expected \(3, 3\) or \(6,\) or \(9,\)"):
        read_structures(wrong, stress_key="REF_stress")


def test_to_atoms_and_back() -> None:
    structure = Structure(**{**copper().__dict__, "charge": -1.0, "spin": 2, "info": {"name": "x"}})
    atoms = to_atoms(structure)
    assert atoms.calc is None and atoms.info == {"name": "x", "charge": -1.0, "spin": 2}
    back = Structure.of(atoms)
    for field in ("numbers", "positions", "cell", "pbc"):
        assert np.array_equal(getattr(back, field), getattr(structure, field))
    assert (back.charge, back.spin) == (-1.0, 2)
    atoms.info["name"] = "y"
    assert structure.info == {"name": "x"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_atoms(water_molecule()).info == {}
