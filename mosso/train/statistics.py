"""What a model must know of its training data before the first step: E0, degree, scale and shift."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mosso.models.base import name_elements
from mosso.train.source import Frames


@dataclass(frozen=True)
class Statistics:
    """Numbers taken from the training frames.

    Attributes:
        species: atomic numbers, ascending.
        atomic_energies: E0 per species, eV.
        avg_num_neighbors: mean number of edges into an atom.
        rms_forces: root mean square force component, eV/A; scales what the readouts say.
        mean_energy: mean of (E - sum E0) / N over frames, eV/atom.
        frames, atoms, edges: how much the numbers rest on.
    """

    species: tuple[int, ...]
    atomic_energies: tuple[float, ...]
    avg_num_neighbors: float
    rms_forces: float
    mean_energy: float
    frames: int
    atoms: int
    edges: int

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @staticmethod
    def from_plain(data: dict[str, Any]) -> "Statistics":
        """The inverse of ``plain``."""
        return Statistics(**{**data, "species": tuple(data["species"]), "atomic_energies": tuple(data["atomic_energies"])})

    @staticmethod
    def of(frames: Frames, chosen: np.ndarray, num_edges_F: np.ndarray, species: tuple[int, ...]) -> "Statistics":
        """Statistics of the ``chosen`` frames; ``num_edges_F`` counts the edges of every frame of the data set."""
        counts_FS = composition(frames, species)[chosen]
        energy_F, num_atoms_F = frames.energy_F[chosen], frames.num_atoms_F[chosen]
        e0_S = fit_atomic_energies(counts_FS, energy_F, species)
        member_N = np.repeat(np.isin(np.arange(len(frames)), chosen), frames.num_atoms_F)
        rms = float(np.sqrt(np.mean(frames.forces_N3[member_N] ** 2)))
        atoms, edges = int(num_atoms_F.sum()), int(num_edges_F[chosen].sum())
        return Statistics(
            species=tuple(species),
            atomic_energies=tuple(float(e) for e in e0_S),
            # A set without a single edge still trains (only E0 matter), so the divisors stay finite.
            avg_num_neighbors=edges / atoms if edges else 1.0,
            rms_forces=rms if rms > 0 else 1.0,
            mean_energy=float(np.mean((energy_F - counts_FS @ e0_S) / num_atoms_F)),
            frames=len(chosen),
            atoms=atoms,
            edges=edges,
        )


def composition(frames: Frames, species: tuple[int, ...]) -> np.ndarray:
    """(F, S) float64: how many atoms of each species a frame has. An element outside ``species`` is a ValueError."""
    unknown = sorted(set(np.unique(frames.numbers_N).tolist()) - set(species))
    if unknown:
        raise ValueError(f"The data set has {name_elements(unknown)}, which model.species does not list ({name_elements(species)}).")
    counts_FS = np.zeros((len(frames), len(species)))
    frame_N = np.repeat(np.arange(len(frames)), frames.num_atoms_F)
    np.add.at(counts_FS, (frame_N, np.searchsorted(species, frames.numbers_N)), 1.0)
    return counts_FS


def fit_atomic_energies(counts_FS: np.ndarray, energy_F: np.ndarray, species: tuple[int, ...]) -> np.ndarray:
    """(S,) E0 in eV: the mean over isolated atoms where there are any, else the least-squares fit of what they leave.

    Least squares takes the solution of smallest norm where compositions do not tell the elements apart.
    """
    e0_S = np.zeros(len(species))
    single_F = counts_FS.sum(axis=1) == 1
    known_S = np.full(len(species), False)
    for index in range(len(species)):
        alone_F = single_F & (counts_FS[:, index] == 1)
        if alone_F.any():
            e0_S[index], known_S[index] = energy_F[alone_F].mean(), True
    present_S: np.ndarray = counts_FS.sum(axis=0) > 0
    if not present_S.all():
        absent = name_elements([z for z, there in zip(species, present_S, strict=True) if not there])
        raise ValueError(f"No training frame has {absent}: take it out of model.species.")
    if not known_S.all():
        rest_F = energy_F - counts_FS @ e0_S
        e0_S[~known_S] = np.linalg.lstsq(counts_FS[:, ~known_S], rest_F, rcond=None)[0]
    return e0_S
