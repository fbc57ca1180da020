"""Any TorchSim model, made by a function of the user's, named ``module:function``.

The function is called with ``device`` and ``precision`` as far as it takes these arguments, and returns the model; what it cannot
make it answers with NotImplementedError. An attribute ``truth`` of the function names its most exact precision, where that is
not ``fp64``. Modules are found on PYTHONPATH and in the working folder.
"""

import importlib
import inspect
import os
import sys

import torch
import torch_sim

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32}


class Adapter:
    packages = ("torch-sim-atomistic", "ase", "numpy")

    def __init__(self, model, backend, precision, device, factory=None, weights=None):
        if factory is None:
            raise ValueError("A TorchSim model is made by a function of yours: name it with factory, `module:function`.")
        if backend != "default":
            raise NotImplementedError(f"a TorchSim model has no backend {backend!r}: default")
        if precision not in DTYPES:
            raise NotImplementedError(f"a TorchSim model has no precision {precision!r}: {', '.join(DTYPES)}")
        if weights is not None:
            raise NotImplementedError("the function that makes a model reads its own weights")
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        sys.path.append(os.getcwd())
        module, _, name = factory.partition(":")
        make = getattr(importlib.import_module(module), name)
        taken = inspect.signature(make).parameters
        given = {"device": device, "precision": precision}
        self.model = make(**{name: value for name, value in given.items() if name in taken})
        if self.model.dtype != DTYPES[precision]:
            raise NotImplementedError(f"{factory} makes a model that computes in {str(self.model.dtype).removeprefix('torch.')}")
        own = "fp64" if self.model.dtype == torch.float64 else "fp32"
        self.device = device
        self.facts = {
            "parameters": sum(weight.numel() for weight in self.model.parameters()) or None,
            "weights": None,
            "weights_sha256": None,
            "truth": getattr(make, "truth", "fp64") if "precision" in taken else own,
            "list_inside": True,
        }

    def prepare(self, structures, stress):
        if len({tuple(pbc) for pbc in structures.pbc.tolist()}) > 1:
            raise NotImplementedError("TorchSim takes batches of one periodicity only")
        self._stress_wanted(stress)
        self.stress = stress
        self.state = torch_sim.io.atoms_to_state(structures.atoms(), torch.device(self.device), self.model.dtype)

    def place(self, positions):
        self.state.positions = torch.as_tensor(positions, device=self.device).to(self.model.dtype)

    def evaluate(self):
        return self.model(self.state)

    def answer(self, output):
        wanted = ("energy", "forces", "stress") if self.stress else ("energy", "forces")
        return {name: output[name].detach().cpu().double().numpy() for name in wanted}

    def release(self):
        self.state = None

    def torch_sim_model(self):
        return self.model

    def _stress_wanted(self, stress):
        """Turned on and off where the model can be told."""
        if self.model.compute_stress == stress:
            return
        try:
            self.model.compute_stress = stress
        except (NotImplementedError, AttributeError):
            if stress:
                raise NotImplementedError("this model was made without stress") from None
