"""orb-models (Orb-v3): official shapes with random weights, or a checkpoint file; eager or compiled as its loader compiles."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from orb_models.forcefield import atomic_system, pretrained
from orb_models.forcefield.base import batch_graphs
from orb_models.forcefield.calculator import ORBCalculator
from orb_models.utils import set_torch_precision

PRECISIONS = {"fp64": "float64", "fp32": "float32-highest", "tf32": "float32-high"}
# "inf" is what the package calls 120 neighbours: all within 6 A in ordinary matter.
MODELS = {f"orb-v3-{head}-{limit}": (head, count) for head in ("direct", "conservative") for limit, count in (("20", 20), ("inf", 120))}
GAIN = 2.4
VOIGT = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]


class Adapter:
    packages = ("orb-models", "torch-sim-atomistic", "ase", "numpy", "scipy", "triton")

    def __init__(self, model, backend, precision, device, weights=None):
        if model not in MODELS:
            raise ValueError(f"orb_models.py knows no model {model!r}. Choose from {', '.join(MODELS)}.")
        if backend not in ("eager", "compiled"):
            raise NotImplementedError(f"orb-models has no backend {backend!r}: eager, compiled")
        if precision not in PRECISIONS:
            raise NotImplementedError(f"orb-models has no precision {precision!r}: {', '.join(PRECISIONS)}")
        self.device = device
        head, neighbors = MODELS[model]
        self.config = atomic_system.SystemConfig(radius=6.0, max_num_neighbors=neighbors)
        # Weights and constants are made in single precision whatever comes after, as the official loader does: the same numbers everywhere.
        torch.set_default_dtype(torch.float32)
        torch.manual_seed(0)
        build = {"direct": pretrained.orb_v3_direct_architecture, "conservative": pretrained.orb_v3_conservative_architecture}[head]
        self.model = build(system_config=self.config, device=torch.device("cpu"))
        if weights is None:
            _randomize(self.model)
        else:
            self.model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
        torch.set_float32_matmul_precision("highest")  # the package sets it for single precision only
        self.dtype = set_torch_precision(PRECISIONS[precision])  # a global default: the package's own code relies on it
        self.model = self.model.to(self.dtype).to(device).eval().requires_grad_(False)
        if backend == "compiled":
            torch._dynamo.reset()
            # What its loader does up to 0.6; 0.7 compiles an entry that predictions of direct models never pass.
            self.model.model.compile(mode="default", dynamic=True)
        self.conservative = hasattr(self.model, "grad_forces_name")
        self.stress_head = None if self.conservative else self.model.heads["stress"]
        self.facts = {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "weights": "random" if weights is None else "file",
            "weights_sha256": None if weights is None else hashlib.sha256(Path(weights).read_bytes()).hexdigest(),
            "truth": "fp64",
        }

    def prepare(self, structures, stress):
        self.atoms, self.stress = structures.atoms(), stress
        self._stress_wanted(stress)
        self.parts = np.flatnonzero(np.diff(structures.system)) + 1
        self.positions = structures.positions
        self.search()
        return int(self.graphs.n_edge.sum())

    def place(self, positions):
        self.positions = positions
        if self.graphs is not None:  # the wrapped images that the edges were found for
            placed = torch.as_tensor(positions, device=self.device) + self.offsets
            self.graphs.node_features["positions"] = placed.to(self.dtype)
            self.vectors_of_list = False

    def search(self):
        graphs = []
        for atoms, positions in zip(self.atoms, np.split(self.positions, self.parts), strict=True):
            atoms.positions = positions
            graphs.append(atomic_system.ase_atoms_to_atom_graphs(atoms, self.config, device=torch.device(self.device)))
        self.graphs = batch_graphs(graphs) if len(graphs) > 1 else graphs[0]
        self.offsets = self.graphs.positions.double() - torch.as_tensor(self.positions, device=self.device)
        self.vectors_of_list = True

    def evaluate(self):
        if not self.conservative and not self.vectors_of_list:  # the conservative models compute them in any case
            self.graphs.edge_features["vectors"] = self._vectors()
        return self.model.predict(self.graphs)

    def answer(self, output):
        prefix = "grad_" if self.conservative else ""
        output = {name.removeprefix(prefix): value.detach().cpu().double().numpy() for name, value in output.items()}
        answer = {"energy": output["energy"].reshape(-1), "forces": output["forces"]}
        if self.stress:
            answer["stress"] = output["stress"].reshape(-1, 6)[:, VOIGT]
        return answer

    def release(self):
        self.graphs = self.atoms = self.offsets = None

    def calculator(self):
        self._stress_wanted(True)
        return ORBCalculator(self.model, system_config=self.config, device=self.device)

    def torch_sim_model(self):
        """TorchSim's model for releases of orb-models before 0.6, which it reads the stress of in any case."""
        from torch_sim.models.orb import OrbModel

        class KeepsSystems(OrbModel):
            """The energies of a batch of one lose their only axis there, and the trajectory cannot be written."""

            def forward(self, state):
                return {name: torch.atleast_1d(value) for name, value in super().forward(state).items()}

        self._stress_wanted(True)
        return KeepsSystems(self.model, system_config=self.config, device=self.device, dtype=self.dtype)

    def write_weights(self, path):
        torch.save(self.model.state_dict(), path)

    def _stress_wanted(self, stress):
        """The conservative models still differentiate by the strain without stress; the direct ones leave a head out."""
        if self.conservative:
            self.model.has_stress = stress
        elif stress:
            self.model.heads["stress"] = self.stress_head
        elif "stress" in self.model.heads:
            del self.model.heads["stress"]

    def _vectors(self):
        return self.graphs.compute_differentiable_edge_vectors(use_stress_displacement=False, use_rotation=False)[0].detach()


def _randomize(model):
    """Signals of order one through every layer, as trained weights have them, and forces of some 0.1 eV/A. With the initial weights
    the mean squares fall to the epsilons of the norms, which differ between float32 and float64."""
    for layer in model.model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data *= GAIN
