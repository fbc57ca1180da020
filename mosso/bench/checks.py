"""Whether an answer is right: its errors against float64, and what each precision may make."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mosso.bench.problems import Answer


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


# What rounding to fp32 makes must pass, products rounded to TF32 must not. Measured in fp32: forces of MACE 0.7e-6 to 3.6e-6
# (h200_mace_mp0_first.jsonl), of the other packages 1e-7 to 4.5e-5 (cpu_bench.jsonl), the most where geometry and sums are
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


@dataclass(frozen=True)
class Errors:
    """As rows have them: eV/atom, the worst structure; eV/A, root mean square over atoms, and over that of the forces; eV/A^3,
    the worst component, None where there is no stress."""

    error_energy: float
    error_forces: float
    error_forces_relative: float
    error_stress: float | None

    def fields(self) -> dict[str, float | None]:
        """For a row; what is not a number is None."""
        return {name: value if value is not None and np.isfinite(value) else None for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Truth:
    """The true answer for a batch.

    Attributes:
        answer: (B,) eV, (N, 3) eV/A, (B, 3, 3) eV/A^3 or None.
        counts: (B,) atoms of each structure.
        volumes: (B,) A^3, zero without a cell.
        source: who made it, for rows.
    """

    answer: Answer
    counts: np.ndarray
    volumes: np.ndarray
    source: str

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
        energy = float((np.abs(found.energy - truth.energy) / self.counts).max())
        return Errors(energy, forces, forces / max(_rms(truth.forces), 1e-300), stress)

    def refusal(self, errors: Errors, tolerance: Tolerance) -> str | None:
        """What is beyond the tolerance, in words; None where all passes. Not a number never passes."""
        reach = AMPLITUDE * _rms(self.answer.forces)  # eV an atom
        found = {
            "energy": (
                errors.error_energy,
                tolerance.energy * (float((np.abs(self.answer.energy) / self.counts).max()) + reach),
                "eV/atom",
            ),
            "forces": (errors.error_forces_relative, tolerance.forces, "of their size"),
        }
        if self.answer.stress is not None and errors.error_stress is not None and (self.volumes > 0).all():
            density = float((self.counts / self.volumes).max())
            size = float(np.abs(self.answer.stress).max()) + density * reach
            found["stress"] = (errors.error_stress, tolerance.stress * size, "eV/A^3")
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
