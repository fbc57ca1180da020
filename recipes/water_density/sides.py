"""The two sides: mosso's dynamics of many replicas in one batch, ASE's of one replica with mosso as its calculator."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time

import numpy as np
from ase import Atoms, units
from ase.md.md import MolecularDynamics
from ase.md.nose_hoover_chain import IsotropicMTKNPT

import mosso
from mosso.data.readers import read_structures
from mosso.data.structure import Structure
from mosso.dynamics.integrators import Coupling, StochasticCellRescaling
from mosso.dynamics.simulate import LogRow, simulate
from mosso.dynamics.units import GRAM_PER_CM3
from mosso.interfaces.ase import Calculator

SIDES = ("mosso-isotropic", "mosso-anisotropic", "ase-mtk", "ase-langevin")
SCALED = 0.03  # starts are alternately this much denser and thinner than where the equilibration came to


class OutOfTime(Exception):
    """The time of a run is over."""


@dataclass
class Series:
    """What is recorded of the replicas of one run: lists of one (R,) array per sample, in ps, g/cm3, A^3, K and bar."""

    time: list[float] = field(default_factory=list)
    density: list[np.ndarray] = field(default_factory=list)
    temperature: list[np.ndarray] = field(default_factory=list)
    pressure: list[np.ndarray] = field(default_factory=list)

    def add(self, time: float, density: np.ndarray, temperature: np.ndarray, pressure: np.ndarray) -> None:
        self.time.append(time)
        self.density.append(density)
        self.temperature.append(temperature)
        self.pressure.append(pressure)

    def save(self, path: Path, **about: object) -> None:
        arrays = {name: np.array(values).T for name, values in vars(self).items()}
        np.savez_compressed(path, **arrays, about=json.dumps(about))
        print(f"{path}: {self.time[-1]:.2f} ps, {about}", flush=True)


def deadline(options: argparse.Namespace) -> float:
    return options.until or time() + 60.0 * options.minutes


def ensemble(options: argparse.Namespace, coupling: Coupling) -> StochasticCellRescaling:
    return StochasticCellRescaling(
        options.temperature,
        options.pressure,
        options.friction,
        barostat_time=options.isotropic_time if coupling == "isotropic" else options.anisotropic_time,
        compressibility=options.compressibility,
        coupling=coupling,
    )


def equilibrate(options: argparse.Namespace) -> None:
    """``starts.npz``: replicas that have forgotten the structure they all started from, every second one then made denser and
    the others thinner, so that a run that was too short to relax shows."""
    potential = mosso.load(options.model, device=options.device, precision=options.precision)
    structure = read_structures(options.structure, index="0")[0]
    num_steps = round(1000.0 * options.equilibration / options.timestep)
    barostat, copies = ensemble(options, "isotropic"), [structure] * options.replicas

    def log(row: LogRow) -> None:
        print(f"{row.time:.2f} ps  {row.density.mean():.4f} g/cm3  {row.temperature.mean():.1f} K", flush=True)

    state = simulate(
        potential, copies, barostat, num_steps=num_steps, timestep=options.timestep, seed=options.seed, log_every=1000, on_log=log
    )
    factors = 1.0 + SCALED * np.where(np.arange(options.replicas) % 2 == 0, -1.0, 1.0)  # of the volume: even replicas denser
    positions = state.batch.positions_N3.cpu().numpy().reshape(options.replicas, -1, 3) * np.cbrt(factors)[:, None, None]
    cells = state.batch.cell_B33.cpu().numpy() * np.cbrt(factors)[:, None, None]
    np.savez_compressed(options.folder / "starts.npz", numbers=structure.numbers, positions=positions, cells=cells)


def read_starts(folder: Path) -> list[Structure]:
    with np.load(folder / "starts.npz") as starts:
        return [Structure(starts["numbers"], x, cell, True) for x, cell in zip(starts["positions"], starts["cells"], strict=True)]


def run_mosso(options: argparse.Namespace) -> None:
    """Replicas in one batch, by stochastic cell rescaling: additive noise on sqrt(V), or on the whole cell."""
    end = deadline(options)
    side = f"mosso-{options.coupling}"
    potential = mosso.load(options.model, device=options.device, precision=options.precision)
    starts = read_starts(options.folder)[: options.replicas]
    series, begin = Series(), monotonic()

    def log(row: LogRow) -> None:
        series.add(row.time, row.density, row.temperature, row.pressure)
        if time() > end:
            raise OutOfTime

    with suppress(OutOfTime):
        simulate(
            potential,
            starts,
            ensemble(options, options.coupling),
            num_steps=options.steps,
            timestep=options.timestep,
            seed=1000 * (1 + SIDES.index(side)) + options.seed,
            log_every=options.every,
            on_log=log,
        )
    about = {"side": side, "starts": [b % 2 for b in range(len(starts))], "seconds": round(monotonic() - begin, 1)}
    series.save(options.folder / f"{side}.npz", **about)


def mtk(atoms: Atoms, options: argparse.Namespace, seed: int) -> MolecularDynamics:
    """Martyna, Tobias & Klein: deterministic. Its equations count 3 N degrees of freedom. They hold V^N exp(-P V / kT), as mosso's do,
    when the centre of mass moves like any other degree of freedom; at rest they would hold another volume (by kT / V, 20 bar, in
    the pressure) and another temperature (by 1 / N)."""
    return IsotropicMTKNPT(
        atoms,
        options.timestep * units.fs,
        temperature_K=options.temperature,
        pressure_au=options.pressure * units.bar,
        tdamp=options.mtk_thermostat * units.fs,
        pdamp=options.ase_barostat * units.fs,
    )


def langevin(atoms: Atoms, options: argparse.Namespace, seed: int) -> MolecularDynamics:
    """Quigley & Probert: a Langevin piston, and Langevin noise on the atoms. The mass is that of the other barostat."""
    from ase.md.langevinbaoab import LangevinBAOAB  # not in older versions of ASE

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LangevinBAOAB(
            atoms,
            options.timestep * units.fs,
            temperature_K=options.temperature,
            externalstress=-options.pressure * units.bar,
            hydrostatic=True,
            T_tau=units.fs / options.friction,
            P_tau=options.ase_barostat * units.fs,
            P_mass=(3 * len(atoms) + 3) * units.kB * options.temperature * (options.ase_barostat * units.fs) ** 2,
            rng=np.random.default_rng(seed),
        )


# NPTBerendsen has the mean volume but not its fluctuations, and Melchionna's NPT is not recommended by ASE's own manual for want of
# stability; these two sample the ensemble that is asked for.
BAROSTATS: dict[str, Callable[[Atoms, argparse.Namespace, int], MolecularDynamics]] = {"mtk": mtk, "langevin": langevin}


def run_ase(options: argparse.Namespace) -> None:
    """One replica, by ASE."""
    end = deadline(options)
    starts = read_starts(options.folder)
    start, seed = starts[options.number % len(starts)], 100_000 + options.number + options.seed
    atoms = Atoms(start.numbers, start.positions, cell=start.cell, pbc=True)
    atoms.calc = Calculator(options.model, device=options.device, precision=options.precision)
    widths = np.sqrt(atoms.get_masses() * units.kB * options.temperature)[:, None]
    atoms.set_momenta(widths * np.random.default_rng(seed).standard_normal((len(atoms), 3)))  # with a centre of mass that moves: see mtk
    dynamics, series, begin = BAROSTATS[options.barostat](atoms, options, seed), Series(), monotonic()
    mass = atoms.get_masses().sum()
    for sample in range(options.steps // options.every + 1):
        pressure = -np.trace(atoms.get_stress(voigt=False, include_ideal_gas=True)) / 3.0 / units.bar
        observed = mass / atoms.get_volume() * GRAM_PER_CM3, atoms.get_temperature(), pressure
        series.add(sample * options.every * options.timestep / 1000.0, *(np.array([value]) for value in observed))
        if time() > end:
            break
        dynamics.run(options.every)
    about = {"side": f"ase-{options.barostat}", "starts": [options.number % len(starts) % 2], "seconds": round(monotonic() - begin, 1)}
    series.save(options.folder / f"ase-{options.barostat}-{options.number}.npz", **about)
