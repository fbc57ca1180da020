"""Whether an answer is right: its errors against float64, and what each precision may make."""

import math
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path

import numpy as np

from mosso.bench.cases import Repeats


@dataclass(frozen=True)
class Answer:
    """(B,) energies (eV), (N, 3) forces (eV/A), (B, 3, 3) stress (eV/A^3); float64."""

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray | None


@dataclass(frozen=True)
class Tolerance:
    """What a precision may be off by.

    Attributes:
        name: in rows; changes when the numbers do.
        forces: root mean square error over that of the forces.
        energy: relative to the size of the energy of an atom.
        stress: relative to the size of the stress.
    """

    name: str
    forces: float
    energy: float
    stress: float

    def bounds(self, truth: "Truth") -> "Errors":
        """The largest errors that pass. The sizes of energy and stress count at least as what forces do along ``AMPLITUDE``."""
        reach = AMPLITUDE * truth.force  # eV an atom
        stress = None if truth.stress is None else self.stress * (truth.stress + truth.density * reach)
        return Errors(self.energy * (truth.energy + reach), math.inf, self.forces, stress)


@dataclass(frozen=True)
class Faithful(Tolerance):
    """What mosso's own ``fp32`` may be off by: as much as float32 itself makes of the system, or the numbers here.

    Where the reference ops under the same policy are known to make more, twice of that passes: the contract of the kernels. Of few
    atoms they are asked at several places (``truths.FEW_ATOMS``).

    Attributes:
        energy: eV an atom, not relative to the total. Energies have no zero of their own: with random weights the total passes near
            it (64 atoms of copper: -0.002 to 0.37 eV an atom, depending on the seed), and there no number of digits would do.
            What counts is the difference that energies make between states, some meV an atom.
    """

    def bounds(self, truth: "Truth") -> "Errors":
        made = truth.reference or Errors(0.0, 0.0, 0.0, None)
        energy, forces = max(self.energy, MAX_RATIO * made.error_energy), max(self.forces, MAX_RATIO * made.error_forces_relative)
        stress = None if truth.stress is None else max(self.stress * truth.stress, MAX_RATIO * (made.error_stress or 0.0))
        return Errors(energy, math.inf, forces, stress)


FAITHFUL = Faithful("fp32-faithful/2", forces=1e-6, energy=1e-7, stress=1e-6)
MAX_RATIO = 2.0
# What rounding to fp32 makes must pass, products rounded to TF32 must not. Measured in fp32: forces of MACE 0.7e-6 to 3.6e-6
# (docs/kernels.md), of the other packages 1e-7 to 4.5e-5 (cpu_bench.jsonl), the most where geometry and sums are
# kept in fp32 as well; a single product rounded to TF32 makes 5e-4.
# Products of operands rounded to 11 bits (tf32, fp16: 5e-4 each) or 8 bits (bf16: 4e-3) pass through ten layers or so; there the
# bound can only tell a rounded answer from one of something else.
TOLERANCES: dict[str, Tolerance] = {
    "fp64": Tolerance("fp64/1", forces=1e-7, energy=1e-8, stress=1e-7),
    "fp32": Tolerance("fp32/1", forces=2e-4, energy=2e-5, stress=2e-4),
    "tf32": Tolerance("tf32/1", forces=3e-2, energy=3e-3, stress=3e-2),
    "fp16": Tolerance("fp16/1", forces=3e-2, energy=3e-3, stress=3e-2),
    "bf16": Tolerance("bf16/1", forces=2e-1, energy=2e-2, stress=2e-1),
}
# Angstrom by which atoms are off their places: energies and stress are known no better than to what the forces do along it, so
# their sizes count at least as that. Without it an energy that happens to be near zero could never be right.
AMPLITUDE = 0.1


def tolerance_of(package: str, precision: str) -> Tolerance:
    """What an answer of a package has to pass."""
    return FAITHFUL if (package, precision) == ("mosso", "fp32") else TOLERANCES[precision]


@dataclass(frozen=True)
class Errors:
    """As rows have them: eV/atom, the worst structure; eV/A, root mean square over atoms, and over that of the forces; eV/A^3,
    the worst component, None where there is no stress; relative to the energy itself, the worst structure."""

    error_energy: float
    error_forces: float
    error_forces_relative: float
    error_stress: float | None
    error_energy_relative: float | None = None

    def fields(self) -> dict[str, float | None]:
        """For a row; what is not a number is None."""
        return {name: value if value is not None and np.isfinite(value) else None for name, value in asdict(self).items()}


def largest(several: Sequence[Errors]) -> Errors | None:
    """Each error where it is largest; None of none."""
    if not several:
        return None
    columns = zip(*(astuple(errors) for errors in several), strict=True)
    return Errors(*(max((value for value in column if value is not None), default=None) for column in columns))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Truth:
    """The true answer for a batch.

    Attributes:
        answer: (B,) eV, (N, 3) eV/A, (B, 3, 3) eV/A^3 or None.
        counts: (B,) atoms of each structure.
        volumes: (B,) A^3, zero without a cell.
        source: who made it, for rows.
        reference: what mosso's reference ops make of the same atoms under the policy that is checked; None where that is not asked.
    """

    answer: Answer
    counts: np.ndarray
    volumes: np.ndarray
    source: str
    reference: Errors | None = None

    @property
    def energy(self) -> float:
        """eV, the largest size of the energy of an atom."""
        return float((np.abs(self.answer.energy) / self.counts).max())

    @property
    def force(self) -> float:
        """eV/A, root mean square over atoms."""
        return _rms(self.answer.forces)

    @property
    def stress(self) -> float | None:
        """eV/A^3, the largest component; None where there is none to be right."""
        has_stress = self.answer.stress is not None and (self.volumes > 0).all()
        return float(np.abs(self.answer.stress).max()) if has_stress and self.answer.stress is not None else None

    @property
    def density(self) -> float:
        """Atoms per A^3, the largest."""
        return float((self.counts / self.volumes).max())

    def repeated(self, repeats: Repeats) -> "Truth":
        """The truth for that many copies of each structure in one (``cases.repeated``)."""
        copies = math.prod(repeats)
        parts = np.split(self.answer.forces, np.cumsum(self.counts)[:-1])
        forces = np.concatenate([np.tile(part, (copies, 1)) for part in parts])
        answer = Answer(copies * self.answer.energy, forces, self.answer.stress)
        return replace(self, answer=answer, counts=copies * self.counts, volumes=copies * self.volumes)

    def errors(self, found: Answer) -> Errors:
        """Of another answer for the same atoms.

        Raises:
            ValueError: the shapes differ.
        """
        truth = self.answer
        if found.energy.shape != truth.energy.shape or found.forces.shape != truth.forces.shape:
            raise ValueError(f"the answer has {found.energy.size} energies and forces of shape {found.forces.shape}, not those asked for")
        forces = _rms(found.forces - truth.forces)
        stress = None
        if found.stress is not None and truth.stress is not None:
            stress = float(np.abs(found.stress - truth.stress).max())
        off = np.abs(found.energy - truth.energy)
        relative = float((off / np.maximum(np.abs(truth.energy), 1e-300)).max())
        return Errors(float((off / self.counts).max()), forces, forces / max(_rms(truth.forces), 1e-300), stress, relative)

    def refusal(self, errors: Errors, tolerance: Tolerance) -> str | None:
        """What is beyond the tolerance, in words; None where all passes. Not a number never passes."""
        bounds = tolerance.bounds(self)
        found = {
            "energy": (errors.error_energy, bounds.error_energy, "eV/atom"),
            "forces": (errors.error_forces_relative, bounds.error_forces_relative, "of their size"),
        }
        if errors.error_stress is not None and bounds.error_stress is not None:
            found["stress"] = (errors.error_stress, bounds.error_stress, "eV/A^3")
        parts = [f"{name} off by {e:.1e} {unit}, {most:.1e} allowed" for name, (e, most, unit) in found.items() if not e <= most]
        return "; ".join(parts) or None


def read_answer(path: Path) -> Answer:
    """What a worker wrote.

    Raises:
        ValueError: energies or forces are missing.
    """
    with np.load(path) as arrays:
        if missing := [name for name in ("energy", "forces") if name not in arrays]:
            raise ValueError(f"the answer holds no {' and no '.join(missing)}")
        return Answer(arrays["energy"], arrays["forces"], arrays.get("stress"))


def _rms(vectors_N3: np.ndarray) -> float:
    """Root mean square over atoms of the length of a vector."""
    return float(np.sqrt((vectors_N3**2).sum(-1).mean()))
