"""Structure (one arrangement of atoms) and Batch (many of them as flat tensors)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Lattice vectors that span less than this share of the product of their lengths are dependent up to rounding.
MIN_RELATIVE_VOLUME = 1e-9


class BadStructure(ValueError):
    """One of several structures cannot be computed.

    Attributes:
        number: its place, from 0, in what was given: a batch, a list, a file. Whoever cut the batch puts in the place in the whole.
        reason: the rest of the sentence, with the remedy.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"Structure {number}: {reason}")
        self.number, self.reason = number, reason


@dataclass(frozen=True, eq=False)
class Structure:
    """One system of N atoms.

    Attributes:
        numbers: (N,) int64, atomic numbers.
        positions: (N, 3) float64, Angstrom. Atoms may lie outside the cell.
        cell: (3, 3) float64, Angstrom, rows are lattice vectors; zero rows where there is none.
        pbc: (3,) bool, periodic along each lattice vector.
        charge: total charge in elementary charges.
        spin: spin multiplicity 2S+1.
        labels: reference values where the source has them: ``energy`` (eV), ``forces`` (N, 3) (eV/A),
            ``stress`` (3, 3) (eV/A^3, tension positive).
        info: anything else the source said; carried along, never interpreted.
        fixed: (N,) bool, atoms that relaxation and dynamics leave where they are; None for none.
    """

    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: np.ndarray = field(default_factory=lambda: np.zeros(3, dtype=bool))
    charge: float = 0.0
    spin: int = 1
    labels: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    fixed: np.ndarray | None = None

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        # copies: the source may move its atoms in place afterwards
        put("numbers", np.array(self.numbers, dtype=np.int64).reshape(-1))
        positions = np.array(self.positions, dtype=np.float64)
        put("positions", positions.reshape(0, 3) if positions.size == 0 else positions)
        if self.positions.ndim != 2 or self.positions.shape[1] != 3:
            raise ValueError(f"Positions have shape {positions.shape}: give (N, 3).")
        cell = np.array(self.cell, dtype=np.float64)
        put("cell", np.diag(cell) if cell.shape == (3,) else cell)
        if self.cell.shape != (3, 3):
            raise ValueError(f"The cell has shape {cell.shape}: give three lattice vectors as rows (3, 3), or three lengths.")
        put("pbc", np.broadcast_to(np.asarray(self.pbc, dtype=bool), (3,)).copy())
        if self.fixed is not None:
            put("fixed", np.array(self.fixed, dtype=bool).reshape(-1))
            if len(self.fixed) != len(self.numbers):
                raise ValueError(f"fixed has {len(self.fixed)} entries for {len(self.numbers)} atoms: give one truth value per atom.")
        if len(self.numbers) != len(self.positions):
            raise ValueError(f"{len(self.numbers)} atomic numbers for {len(self.positions)} positions.")
        if not np.isfinite(self.positions).all():
            bad = int(np.flatnonzero(~np.isfinite(self.positions).all(axis=1))[0])
            raise ValueError(f"Position of atom {bad} is not finite ({self.positions[bad]}): check the input structure.")
        if not np.isfinite(self.cell).all():
            raise ValueError("The cell has entries that are not finite: check the input structure.")
        lengths = np.linalg.norm(self.cell[self.pbc], axis=1)
        if self.pbc.any() and periodic_volume(self.cell, self.pbc) <= MIN_RELATIVE_VOLUME * lengths.prod():
            raise ValueError("The cell has no volume along its periodic directions: give independent lattice vectors or turn pbc off.")

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def volume(self) -> float:
        """|det cell| in A^3; zero when a lattice vector is missing."""
        return float(abs(np.linalg.det(self.cell)))

    @staticmethod
    def of(source: Any) -> "Structure":
        """A Structure from a Structure or anything with ASE's ``numbers``, ``positions``, ``cell`` and ``pbc``."""
        if isinstance(source, Structure):
            return source
        if not all(hasattr(source, name) for name in ("numbers", "positions", "cell", "pbc")):
            raise ValueError(f"Cannot read a structure from {type(source).__name__}: pass mosso.Structure or ase.Atoms.")
        info = dict(getattr(source, "info", {}))
        return Structure(
            numbers=source.numbers,
            positions=source.positions,
            cell=np.asarray(source.cell),
            pbc=source.pbc,
            charge=float(_number(info, ("charge", "total_charge"), 0.0)),
            spin=int(_number(info, ("spin", "multiplicity"), 1.0)),
            info=info,
        )


def periodic_volume(cell: np.ndarray, pbc: np.ndarray) -> float:
    """Length, area or volume spanned by the periodic lattice vectors; 1.0 when there are none."""
    # singular values, not a Gram determinant: that one loses half the digits and misses dependent vectors
    return float(np.linalg.svd(cell[pbc], compute_uv=False).prod()) if pbc.any() else 1.0


def _number(info: dict[str, Any], names: tuple[str, ...], default: float) -> float:
    """The first of ``names`` that ``info`` has, as a number."""
    for name in names:
        if info.get(name) is not None:
            try:
                return float(info[name])
            except (TypeError, ValueError):
                raise ValueError(f"{name!r} of the structure is {info[name]!r}: give one number.") from None
    return default


@dataclass(frozen=True, eq=False)
class Batch:
    """B systems as flat tensors on one device.

    Attributes:
        numbers_N: (N,) int64.
        positions_N3: (N, 3) float64, Angstrom.
        cell_B33: (B, 3, 3) float64, Angstrom, rows are lattice vectors.
        pbc_B3: (B, 3) bool.
        system_N: (N,) int64, the system each atom belongs to, ascending.
        counts_B: (B,) int64, atoms per system.
        offsets: B + 1 Python ints; atoms of system b are offsets[b]:offsets[b+1].
    """

    numbers_N: Tensor
    positions_N3: Tensor
    cell_B33: Tensor
    pbc_B3: Tensor
    system_N: Tensor
    counts_B: Tensor
    offsets: tuple[int, ...]

    @property
    def num_systems(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_atoms(self) -> int:
        return self.offsets[-1]

    @property
    def volume_B(self) -> Tensor:
        """(B,) float64, |det cell| in A^3; zero for systems without a cell. As a triple product, which a CUDA graph can hold."""
        a_B3, b_B3, c_B3 = self.cell_B33.unbind(1)
        return (a_B3 * torch.linalg.cross(b_B3, c_B3)).sum(1).abs()

    @staticmethod
    def of(structures: Sequence[Structure] | Iterable[Structure], device: torch.device | str = "cpu") -> "Batch":
        """The structures, in order, as one batch."""
        structures = list(structures)
        counts = [len(s) for s in structures]
        offsets = tuple(int(x) for x in np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))

        def tensor(arrays: list[np.ndarray], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            joined = np.concatenate(arrays) if arrays else np.zeros((0,))
            return torch.as_tensor(joined.reshape(shape), dtype=dtype).to(device)

        return Batch(
            numbers_N=tensor([s.numbers for s in structures], (-1,), torch.int64),
            positions_N3=tensor([s.positions for s in structures], (-1, 3), torch.float64),
            cell_B33=tensor([s.cell for s in structures], (-1, 3, 3), torch.float64),
            pbc_B3=tensor([s.pbc for s in structures], (-1, 3), torch.bool),
            system_N=torch.as_tensor(np.repeat(np.arange(len(counts)), counts), dtype=torch.int64).to(device),
            counts_B=torch.tensor(counts, dtype=torch.int64).to(device),
            offsets=offsets,
        )
