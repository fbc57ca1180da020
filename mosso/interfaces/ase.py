"""ASE: a Potential as an ASE calculator."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator as AseCalculator
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from mosso.engine.potential import Potential, load
from mosso.engine.series import Series


class Calculator(AseCalculator):
    """A mosso potential for everything that takes an ASE calculator: optimisers, dynamics, vibrations, phonons, NEB.

    ::

        atoms.calc = Calculator("mosso-xtb-s")
        BFGS(atoms).run(fmax=0.01)

    Contributions that the model was not trained on are added with ASE's own sum, for example dispersion::

        from ase.calculators.mixing import SumCalculator
        from dftd3.ase import DFTD3

        atoms.calc = SumCalculator([Calculator("model.mosso"), DFTD3(method="PBE", damping="d3bj")])

    Units are ASE's: eV, eV/A, eV/A^3; stress is tension positive, in Voigt order xx, yy, zz, yz, xz, xy. Total charge and
    spin multiplicity are read from ``charge`` (or ``total_charge``) and ``spin`` (or ``multiplicity``) in ``atoms.info``.

    Args:
        model: a Potential, a named model, or a path to a model file.
        device: ``auto``, ``cpu`` or ``cuda``; like ``precision`` and ``head`` not used when ``model`` is a Potential.
        precision: name of a precision policy, such as ``fp64`` or ``fp32``.
        head: readout head of a model with several.
        skin: Angstrom by which the neighbour list reaches past the cutoff; it is renewed once an atom has moved half of
            that. Results do not depend on it.

    Raises:
        ValueError, FileNotFoundError: the model cannot be had, or does not know an element of the atoms.
        PropertyNotImplementedError: stress of atoms that lack a lattice vector.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 (ASE's own declaration)
    # what the potential does not look at must not make it compute again
    ignored_changes = {"initial_charges", "initial_magmoms"}  # noqa: RUF012

    def __init__(
        self,
        model: Potential | str | Path,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: str = "fp64",
        head: str | None = None,
        skin: float = 0.5,
    ) -> None:
        super().__init__()
        if isinstance(model, str | Path):
            model = load(str(model), device=device, precision=precision, head=head)
        self.potential = model
        self._series = Series(model, skin)
        self._with_stress = False

    def _get_name(self) -> str:
        return "mosso"

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """What ASE writes into trajectories and databases: enough to know where the numbers come from."""
        pot = self.potential
        return {"model": pot.name, "precision": pot.precision.name, "head": pot.head}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """ASE's change detection, and charge and spin, which ASE keeps where it does not look."""
        changes = list(super().check_state(atoms, tol=tol))
        if self.atoms is not None and _charge_and_spin(self.atoms) != _charge_and_spin(atoms):
            changes.append("info")
        return changes

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy",), system_changes: Sequence[str] = tuple(all_changes)
    ) -> None:
        """Energy and forces of ``atoms``, and stress from the first time on that it was asked for: it costs two short sums beside
        forces, and a whole evaluation after them."""
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise ValueError("Nothing to calculate: pass atoms.")
        if "stress" in properties and atoms.cell.rank < 3:
            raise PropertyNotImplementedError("Stress needs a cell with three lattice vectors.")
        self._with_stress = self._with_stress or "stress" in properties
        stress = self._with_stress and atoms.cell.rank == 3
        self.results = {}  # an error below must not leave results of other atoms behind
        super().calculate(atoms, list(properties), list(system_changes))

        output = self._series.evaluate(self.potential.batch([atoms]), stress)
        energy = float(output.energy)
        results = {"energy": energy, "free_energy": energy, "energies": _array(output.node_energies), "forces": _array(output.forces)}
        if stress:
            results["stress"] = full_3x3_to_voigt_6_stress(_array(output.stress).reshape(3, 3))
        self.results = results


def _charge_and_spin(atoms: Atoms) -> tuple[str, ...]:
    """Every entry of ``info`` that mosso.Structure reads; as text, because users put all kinds of things there."""
    return tuple(repr(atoms.info.get(key)) for key in ("charge", "total_charge", "spin", "multiplicity"))


def _array(tensor: Any) -> np.ndarray:
    """A float64 copy on the host; it shares memory with nothing."""
    return np.array(tensor.detach().cpu().numpy(), dtype=np.float64, copy=True)
