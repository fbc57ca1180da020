"""Energy, forces and stress of structures, one at a time and in a batch."""

from pathlib import Path

import ase.io

import mosso

here = Path(__file__).parent
pot = mosso.load("mosso-xtb-s", device="auto", precision="fp64")
print(f"{pot.name}: cutoff {pot.cutoff} A, {pot.precision.name} on {pot.device}")

ethanol = ase.io.read(here / "ethanol.xyz")
out = pot(ethanol)
print(f"ethanol: {float(out.energy):.6f} eV, largest force {out.forces.norm(dim=1).max():.3f} eV/A")

# Structures of any size go into one batch; only those with a cell have a stress.
water = ase.io.read(here / "water24.extxyz")
for name, part in zip(("ethanol", "water24"), pot([ethanol, water]).split(), strict=True):
    print(f"{name}: {float(part.energy) / len(part.forces):.6f} eV per atom")

stress = pot(water, stress=True).stress
print(f"water24: pressure {-float(stress.trace()) / 3 * 1.602176634e6:.0f} bar")
