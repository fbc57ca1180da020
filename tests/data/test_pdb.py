"""Elements of PDB files without an element column: by residue, in every model, or one clear sentence; models and their cells."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase.data import atomic_numbers
from shared_files import shared_file

from mosso.data.readers import read_structures


def atom(name: str, residue: str, element: str = "", segment: str = "SEGM", record: str = "ATOM") -> str:
    """One line with its name at the left of its columns, as programs write it that do not align it by element."""
    numbers = f"{1.0:8.3f}{2.0:8.3f}{3.0:8.3f}{1.0:6.2f}{0.0:6.2f}"
    return f"{record:<6}    1 {name:<4} {residue:<4}    1    {numbers}      {segment:<4}{element:>2}\n"


def numbers(path: Path, text: str) -> list[int]:
    path.write_text(text)
    (structure,) = read_structures(path)
    assert np.array_equal(structure.positions, [[1.0, 2.0, 3.0]] * len(structure))
    return list(structure.numbers)


@pytest.mark.parametrize(
    ("residue", "names", "symbols"),
    [
        ("LYS", "N CA CB CD CE NZ HZ1 1HB C O", "N C C C C N H H C O"),
        ("HID", "CG ND1 CD2 HE1 NE2", "C N C H N"),
        ("HSE", "ND1 HE2", "N H"),
        ("CYX", "SG HA", "S H"),
        ("MET", "SD HG1", "S H"),
        ("SER", "OG HG", "O H"),
        ("NARG", "NE NH1 HH11 HE", "N N H H"),
        ("CALA", "CA OXT", "C O"),
        ("MSE", "SE CE", "Se C"),
        ("NME", "N CH3", "N C"),
        ("DA5", "P OP1 C5' H5'' HO5' 2H5* N9", "P O C H H H N"),
        ("U", "P N1 C5", "P N C"),
        ("HOH", "OW HW1 HW2", "O H H"),
        ("TIP3", "OH2 H1 H2", "O H H"),
        ("CA", "CA", "Ca"),
        ("NA+", "NA", "Na"),
        ("Cl-", "Cl-", "Cl"),
        ("ZN2", "ZN", "Zn"),
        ("MG2+", "MG", "Mg"),
        ("K", "K", "K"),
        ("SOD", "SOD", "Na"),
        ("CLA", "CLA", "Cl"),
    ],
)
def test_elements_by_residue(tmp_path: Path, residue: str, names: str, symbols: str) -> None:
    expected = [atomic_numbers[symbol] for symbol in symbols.split()]
    assert numbers(tmp_path / "a.pdb", "".join(atom(name, residue) for name in names.split()) + "END\n") == expected
    # columns 77-80 of old files hold the number of the line
    old = "".join(atom(name, residue, "10").rstrip("\n") + "01\n" for name in names.split())
    assert numbers(tmp_path / "a.pdb", old + "END\n") == expected


def test_lines_may_end_early(tmp_path: Path) -> None:
    assert numbers(tmp_path / "a.pdb", "".join(atom(name, "SER")[:54] + "\n" for name in ("CA", "OG", "HG"))) == [6, 8, 1]


def test_the_column_is_believed(tmp_path: Path) -> None:
    """Also where residue and name would say something else, or nothing."""
    lines = atom("CA", "GLY", "CA") + atom("CA", "GLY", "C") + atom("C1", "LIG", "CL", record="HETATM") + atom("X", "LIG", "h")
    assert numbers(tmp_path / "a.pdb", lines + "END\n") == [20, 6, 17, 1]


def test_only_some_lines_have_the_element(tmp_path: Path) -> None:
    lines = atom("C1", "LIG", "BR", record="HETATM") + atom("CA", "GLY") + atom("HG", "SER", "H") + atom("HG", "HG", record="HETATM")
    assert numbers(tmp_path / "a.pdb", lines + "END\n") == [35, 6, 1, 80]


@pytest.mark.parametrize("name", ["a.pdb", "a.pdb.gz"])
def test_every_model(tmp_path: Path, name: str) -> None:
    model = "MODEL\n" + atom("CA", "GLY") + atom("HG", "SER") + "ENDMDL\n"
    content = f"CRYST1   30.000   40.000   50.000  90.00  90.00  90.00 P 1           1\n{3 * model}".encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    structures = read_structures(path)
    assert [list(structure.numbers) for structure in structures] == [[6, 1]] * 3
    for structure in structures:
        assert np.allclose(structure.cell, np.diag([30.0, 40.0, 50.0])) and structure.pbc.all()
    assert list(read_structures(path, -1)[0].numbers) == [6, 1]


def cell_of(*lengths: float) -> str:
    return "CRYST1" + "".join(f"{length:9.3f}" for length in lengths) + 3 * "  90.00" + " P 1           1\n"


def test_cells_and_ends_of_models(tmp_path: Path) -> None:
    """Cells that change, as of a simulation at constant pressure; END behind the last ENDMDL; an end that is missing."""
    atoms, path = atom("CA", "GLY"), tmp_path / "a.pdb"
    path.write_text(cell_of(30, 30, 30) + atoms + "END\n" + cell_of(31, 31, 31) + atoms + "ENDMDL\nEND\n" + atoms)
    assert [structure.cell[0, 0] for structure in read_structures(path)] == [30.0, 31.0, 31.0]


def test_the_unit_cube_is_no_crystal(tmp_path: Path) -> None:
    """As structures from electron microscopy and magnetic resonance have it."""
    path = tmp_path / "a.pdb"
    path.write_text(cell_of(1, 1, 1) + 2 * ("MODEL\n" + atom("CA", "GLY") + "ENDMDL\n"))
    assert [structure.pbc.any() for structure in read_structures(path)] == [False, False]


@pytest.mark.parametrize(
    ("name", "residue"),
    [("CA", "LIG"), ("C1", "CO"), ("M", "TIP3"), ("W", "W"), ("1", "ALA"), ("CA", ""), ("ZN", "ALA"), ("NA", "CL")],
)
def test_unknown_elements(tmp_path: Path, name: str, residue: str) -> None:
    path = tmp_path / "a.pdb"
    path.write_text(atom("OW", "HOH") + atom(name, residue, record="HETATM") + "END\n")
    with pytest.raises(ValueError) as caught:
        read_structures(path)
    assert str(caught.value) == (
        f"{path}, line 2: columns 77-78 have no element and atom {name!r} of residue {residue!r} does not tell it: "
        "write the element there, or convert the file to extxyz."
    )


def test_broken_files(tmp_path: Path) -> None:
    for name, content in (("a.pdb", atom("CA", "GLY").replace("1.000", "x.000")), ("a.pdb.gz", atom("CA", "GLY"))):
        path = tmp_path / name
        path.write_text(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read .*: check that the file is complete"):
            read_structures(path)


def test_dihydrofolate_reductase_in_water() -> None:
    """A protein of 159 residues, and 7,023 molecules of water."""
    (structure,) = read_structures(shared_file("data/dhfr_23558.pdb.gz"))
    water = 7023
    protein = Counter(structure.numbers[: len(structure) - 3 * water].tolist())
    assert Counter(structure.numbers[-3 * water :].tolist()) == {1: 2 * water, 8: water}
    assert set(protein) == {1, 6, 7, 8, 16} and protein[16] == 5 + 2  # SD of methionine, SG of cysteine
    assert len(structure) == 23558 and structure.pbc.all() and np.allclose(structure.cell, 62.23 * np.eye(3))
