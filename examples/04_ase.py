"""mosso inside ASE: relax a molecule, then its vibrations."""

from pathlib import Path
from tempfile import TemporaryDirectory

import ase.io
from ase.optimize import BFGS
from ase.vibrations import Vibrations

from mosso.interfaces.ase import Calculator

atoms = ase.io.read(Path(__file__).parent / "ethanol.xyz")
atoms.calc = Calculator("mosso-xtb-s", precision="fp64")

# A contribution the model was not trained on is added with ASE's own sum, for example D3 dispersion
# (only for models whose reference data lacks it):
#
#   from ase.calculators.mixing import SumCalculator
#   from dftd3.ase import DFTD3
#   atoms.calc = SumCalculator([Calculator("model.mosso"), DFTD3(method="PBE", damping="d3bj")])

BFGS(atoms, logfile="-").run(fmax=0.005, steps=300)
print(f"relaxed energy {atoms.get_potential_energy():.6f} eV")

with TemporaryDirectory() as folder:
    vibrations = Vibrations(atoms, name=folder)
    vibrations.run()
    vibrations.summary()
