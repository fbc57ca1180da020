"""PDB files as ASE's reader wants them: every atom with its element, every model with its cell and an end.

Elements of files that leave the element column empty follow from the residues: by its name alone CA is an alpha carbon or calcium, HG
a hydrogen or mercury.
"""

from collections.abc import Container, Iterable, Iterator


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_AMINO_ACIDS = _words("""
    ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL MSE SEC PYL
    HID HIE HIP HSD HSE HSP CYX CYM ASH GLH LYN
""")
_CAPS = _words("ACE FOR NME NMA NHE NH2")
_BASES = _words("A C G U T DA DC DG DT DU RA RC RG RU")
# Amber names residues at the ends of chains: NALA, CALA; DA5, DA3.
_ENDS = {end + residue for residue in _AMINO_ACIDS for end in "NC"} | {base + end for base in _BASES for end in "53"}
_WATER = _words("HOH WAT H2O SOL SPC TIP TIP3 TP3")
_NAMED_BY_FIRST_LETTER = _AMINO_ACIDS | _CAPS | _BASES | _words("ADE CYT GUA THY URA") | _ENDS | _WATER
_SELENIUM = _words("MSE SEC")
_NO_CRYSTAL = ["1.000"] * 3 + ["90.00"] * 3

_IONS = {ion.upper(): ion for ion in _words("Li Na K Rb Cs Mg Ca Sr Ba Al Cr Mn Fe Co Ni Cu Zn Ag Cd Hg Pb F Cl Br I")}
_IONS |= {"LIT": "Li", "SOD": "Na", "POT": "K", "RUB": "Rb", "CES": "Cs", "CAL": "Ca", "BAR": "Ba", "CLA": "Cl"}  # names of CHARMM


class UnknownElement(ValueError):
    """An atom of which neither the element column nor the residue tells the element."""


def complete_elements(lines: Iterable[str], symbols: Container[str]) -> Iterator[str]:
    """The lines of a PDB file, with the element in columns 77-78 of all atoms; those that have it there stay as they are.

    Args:
        lines: the file; all its models.
        symbols: chemical symbols, one of which the column must hold to be believed (old files have line numbers there).

    Raises:
        UnknownElement: the column has no element and the residue does not tell it.
    """
    for number, line in enumerate(lines, start=1):
        is_atom = line.startswith(("ATOM  ", "HETATM"))
        if not is_atom or line[76:78].strip().capitalize() in symbols:
            yield line
            continue
        name, residue = line[12:16].strip(), line[17:21].strip()
        symbol = _element(name.upper(), residue.upper())
        if symbol is None:
            raise UnknownElement(
                f"line {number}: columns 77-78 have no element and atom {name!r} of residue {residue!r} does not tell it: "
                "write the element there, or convert the file to extxyz."
            )
        text = line.rstrip("\r\n")
        yield f"{text[:76]:<76}{symbol:>2}{text[78:]}\n"


def complete_models(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a PDB file, in which a cell stands before the atoms of every model it is for, and one END behind them.

    The format gives one CRYST1 to all models; the unit cube there says that there is no crystal (wwPDB format 3.3, CRYST1).
    """
    cell, inside = "", False
    for line in lines:
        if line.startswith("CRYST1"):
            cell = "" if line[6:54].split() == _NO_CRYSTAL else line
            continue
        if line.startswith(("ATOM", "HETATM")) and not inside:
            inside = True
            yield cell
        if line.startswith("END"):
            if not inside:
                continue
            inside = False
        yield line
    if inside:
        yield "END\n"


def _element(name: str, residue: str) -> str | None:
    """The element of an atom by its name in its residue, both in capitals; None where they do not tell."""
    if residue in _SELENIUM and name == "SE":
        return "Se"
    if residue in _NAMED_BY_FIRST_LETTER:
        letter = name.lstrip("0123456789")[:1]
        return letter if letter and letter in "HCNOPS" else None
    # A residue with the name of its atom has no other atoms: an ion, as NA, CL-, MG2+ or ZN2.
    ion = name.rstrip("0123456789+-")
    return _IONS.get(ion) if ion == residue.rstrip("0123456789+-") else None
