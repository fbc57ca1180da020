"""Relax several structures at once; each stops by itself when its largest force is small enough."""

from pathlib import Path

import ase.io

import mosso
from mosso.dynamics.relax import relax

ethanol = ase.io.read(Path(__file__).parent / "ethanol.xyz")
starts = []
for seed in range(4):
    atoms = ethanol.copy()
    atoms.rattle(0.05, seed=seed)
    starts.append(atoms)

pot = mosso.load("mosso-xtb-s", precision="fp64")
result = relax(pot, starts, fmax=0.01, steps=500)
for converged, steps, energy, force in zip(result.converged, result.num_steps, result.energies, result.max_forces, strict=True):
    print(f"{'converged' if converged else 'NOT converged'} after {steps} steps: {energy:.6f} eV, largest force {force:.4f} eV/A")
