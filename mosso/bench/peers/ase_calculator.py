"""Any ASE calculator, made by a function of the user's, named ``module:function``.

The function is called with ``device`` and ``precision`` as far as it takes these arguments, and returns the calculator; what it
cannot make it answers with NotImplementedError. One that takes no ``precision`` counts as ``fp32``, the only one it has. An
attribute ``truth`` of the function names its most exact precision, where that is not ``fp64``. Modules are found on PYTHONPATH
and in the working folder.
"""

import importlib
import inspect
import os
import sys

import numpy as np


class Adapter:
    packages = ("ase", "numpy")

    def __init__(self, model, backend, precision, device, factory=None, weights=None):
        if factory is None:
            raise ValueError("An ASE calculator is made by a function of yours: name it with factory, `module:function`.")
        if backend != "default":
            raise NotImplementedError(f"an ASE calculator has no backend {backend!r}: default")
        if weights is not None:
            raise NotImplementedError("the function that makes a calculator reads its own weights")
        sys.path.append(os.getcwd())
        module, _, name = factory.partition(":")
        make = getattr(importlib.import_module(module), name)
        taken = inspect.signature(make).parameters
        if "precision" not in taken and precision != "fp32":
            raise NotImplementedError(f"{factory} takes no precision: the one it has counts as fp32")
        given = {"device": device, "precision": precision}
        self.calculator_made = make(**{name: value for name, value in given.items() if name in taken})
        self.device = device
        self.facts = {
            "parameters": None,
            "weights": None,
            "weights_sha256": None,
            "truth": getattr(make, "truth", "fp64") if "precision" in taken else "fp32",
            "list_inside": True,
        }

    def prepare(self, structures, stress):
        if len(structures.cells) > 1:
            raise NotImplementedError("an ASE calculator takes one structure at a time")
        if stress and "stress" not in self.calculator_made.implemented_properties:
            raise NotImplementedError("this calculator has no stress")
        (self.atoms,) = structures.atoms()
        self.atoms.calc, self.stress = self.calculator_made, stress

    def place(self, positions):
        self.atoms.positions = positions

    def evaluate(self):
        """Forces first, as dynamics ask: what a calculator finds beside them it keeps."""
        answer = {"forces": self.atoms.get_forces(apply_constraint=False), "energy": self.atoms.get_potential_energy()}
        if self.stress:
            answer["stress"] = self.atoms.get_stress(voigt=False, apply_constraint=False)
        return answer

    def answer(self, output):
        return {name: np.asarray(value)[None] if name != "forces" else value for name, value in output.items()}

    def release(self):
        self.atoms = None

    def calculator(self):
        return self.calculator_made
