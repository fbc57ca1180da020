"""Structures chosen to hurt: cells below the cutoff, tilted, partly periodic, unwrapped, lonely.

Imports numpy only. Lengths in Angstrom; cell rows are the lattice vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FCC = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])


@dataclass(frozen=True)
class Structure:
    """One system as a user gives it (no wrapping, cell not completed)."""

    name: str
    numbers: np.ndarray  # (N,)
    positions: np.ndarray  # (N, 3)
    cell: np.ndarray  # (3, 3), zero rows where there is no lattice vector
    pbc: tuple[bool, bool, bool]


def _species(species: tuple[int, ...], count: int, start: int) -> np.ndarray:
    """Cycle through the species, starting elsewhere for every structure."""
    return np.array([species[(start + i) % len(species)] for i in range(count)])


def crystal_small(species: tuple[int, ...], rng: np.random.Generator) -> Structure:
    """Four rattled atoms in a triclinic cell smaller than any cutoff used here."""
    cell = np.array([[3.9, 0.0, 0.0], [0.7, 3.7, 0.0], [-0.5, 0.9, 4.1]])
    positions = _FCC @ cell + rng.normal(scale=0.12, size=(4, 3))
    return Structure("crystal_small", _species(species, 4, 0), positions, cell, (True,) * 3)


def crystal_large(species: tuple[int, ...], rng: np.random.Generator, repeat: tuple[int, int, int]) -> Structure:
    """A rattled supercell, slightly sheared, with two atoms outside the cell."""
    unit = np.array([[4.1, 0.0, 0.0], [0.2, 4.2, 0.0], [0.1, -0.3, 4.0]])
    corners = np.array(list(np.ndindex(*repeat)), dtype=float)
    fractional = (corners[:, None, :] + _FCC[None, :, :]).reshape(-1, 3)
    cell = np.array(repeat, dtype=float)[:, None] * unit
    positions = fractional @ unit + rng.normal(scale=0.15, size=fractional.shape)
    positions[1] += cell[0] - cell[2]
    positions[-1] -= 2.0 * cell[1]
    numbers = _species(species, len(positions), 1)
    return Structure("crystal_large", numbers, positions, cell, (True,) * 3)


def molecule(species: tuple[int, ...], rng: np.random.Generator) -> Structure:
    """Six atoms without periodicity and without a cell, bonds of 0.9 to 1.5."""
    positions = np.array(
        [
            [0.0, 0.0, 0.0],
            [1.4, 0.1, -0.2],
            [-0.4, 0.8, 0.1],
            [-0.5, -0.9, 0.7],
            [2.0, 1.2, 0.4],
            [1.8, -0.7, -1.1],
        ]
    )
    positions = positions + rng.normal(scale=0.05, size=positions.shape) + [0.3, -1.0, 2.0]
    return Structure("molecule", _species(species, 6, 2), positions, np.zeros((3, 3)), (False,) * 3)


def slab(species: tuple[int, ...], rng: np.random.Generator) -> Structure:
    """Three rattled layers, periodic in x and y, with a tilted non-periodic third vector."""
    cell = np.array([[4.0, 0.0, 0.0], [0.6, 4.3, 0.0], [1.0, 0.5, 18.0]])
    fractional = np.array([[0.0, 0.0], [0.5, 0.5], [0.5, 0.0], [0.0, 0.5], [0.0, 0.0], [0.5, 0.5]])
    heights = np.array([5.0, 5.0, 7.1, 7.1, 9.2, 9.2])
    positions = np.column_stack([fractional @ cell[:2, :2], heights])
    positions = positions + rng.normal(scale=0.1, size=positions.shape)
    return Structure("slab", _species(species, 6, 3), positions, cell, (True, True, False))


def wire(species: tuple[int, ...], rng: np.random.Generator) -> Structure:
    """Three atoms per period, periodic in z only, no lattice vector in x and y."""
    cell = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.3]])
    positions = np.array([[0.0, 0.0, 0.2], [0.8, 0.3, 1.9], [-0.4, 0.7, 3.6]])
    positions = positions + rng.normal(scale=0.1, size=positions.shape)
    return Structure("wire", _species(species, 3, 4), positions, cell, (False, False, True))


def atom(species: tuple[int, ...]) -> Structure:
    """One isolated atom, away from the origin: no edges at all."""
    positions = np.array([[1.0, -2.0, 3.0]])
    return Structure("atom", _species(species, 1, 5), positions, np.zeros((3, 3)), (False,) * 3)


def structures_for(species: tuple[int, ...], seed: int, small_model: bool) -> list[Structure]:
    """All structures of one case; full-size models get the smaller supercell."""
    rng = np.random.default_rng(seed)
    repeat = (2, 2, 2) if small_model else (2, 2, 1)
    return [
        crystal_small(species, rng),
        crystal_large(species, rng, repeat),
        molecule(species, rng),
        slab(species, rng),
        wire(species, rng),
        atom(species),
    ]


def pack(structures: list[Structure]) -> dict[str, np.ndarray]:
    """Lay structures out as flat arrays: ``numbers``, ``positions``, ``num_atoms``, ``cells``, ``pbc``."""
    return {
        "numbers": np.concatenate([s.numbers for s in structures]).astype(np.int64),
        "positions": np.concatenate([s.positions for s in structures]),
        "num_atoms": np.array([len(s.numbers) for s in structures], dtype=np.int64),
        "cells": np.stack([s.cell for s in structures]),
        "pbc": np.array([s.pbc for s in structures], dtype=bool),
    }
