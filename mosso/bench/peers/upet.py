"""upet (PET): the shapes of the official models with random weights, or a checkpoint file; TorchScript, as upet runs every model."""

import copy
import hashlib
import importlib.util
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import upet  # noqa: F401 (it sets how TorchScript fuses)
from metatensor.torch import Labels, TensorBlock
from metatomic.torch import AtomisticModel, ModelEvaluationOptions, ModelOutput, System
from metatomic_ase import MetatomicCalculator
from metatomic_ase._neighbors import AllNeighborsCalculator
from metatrain.pet import PET
from metatrain.utils.architectures import get_default_hypers
from metatrain.utils.data import DatasetInfo
from metatrain.utils.data.target_info import get_energy_target_info
from metatrain.utils.io import load_model

# Width, message-passing layers, attention layers in each, cutoff in Angstrom, neighbours that the adaptive cutoff aims at.
MODELS = {"pet-mad-xs": (128, 2, 1, 7.5, 8), "pet-mad-s": (256, 3, 1, 8.0, 16), "pet-oam-xl": (640, 5, 3, 10.0, 40)}
KNOWN_ELEMENTS = range(1, 103)
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32}


class Adapter:
    packages = (
        *("upet", "metatrain", "metatomic-torch", "metatomic-ase", "metatensor-torch", "metatomic-torchsim", "torch-sim-atomistic"),
        *("nvalchemi-toolkit-ops", "vesin", "ase", "numpy"),
    )

    def __init__(self, model, backend, precision, device, weights=None):
        if model not in MODELS and weights is None:
            raise ValueError(f"upet.py knows no model {model!r}. Choose from {', '.join(MODELS)}, or give a checkpoint as weights.")
        if backend != "default":
            raise NotImplementedError(f"upet has no backend {backend!r}: default")
        if precision not in DTYPES:
            raise NotImplementedError(f"upet has no precision {precision!r}: {', '.join(DTYPES)}")
        self.device, self.dtype = device, DTYPES[precision]
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        warnings.filterwarnings("ignore", message="PET assumes that Cartesian tensors")
        drawn = _random(*MODELS[model]) if weights is None else load_model(weights)
        self.model = _scripted(drawn.to(self.dtype).export())
        self.model.to(device)
        # Lists without the skin that its calculator keeps on a CPU: a search is a search.
        self.lists = AllNeighborsCalculator(self.model.requested_neighbor_lists(), skin=0.0)
        self.energy = {"energy": ModelOutput(unit="eV", explicit_gradients=[], sample_kind="system")}
        self.facts = {
            "parameters": sum(parameter.numel() for parameter in drawn.parameters()),
            "weights": "random" if weights is None else "file",
            "weights_sha256": None if weights is None else hashlib.sha256(Path(weights).read_bytes()).hexdigest(),
            "truth": "fp64",
        }
        self.folder = None
        self.release()

    def prepare(self, structures, stress):
        self.stress = stress
        self.cuts = np.flatnonzero(np.diff(structures.system)) + 1
        self.constants = [
            (
                torch.as_tensor(numbers, dtype=torch.int32, device=self.device),
                torch.as_tensor(np.where(pbc[:, None], cell, 0.0), dtype=self.dtype, device=self.device),
                torch.as_tensor(pbc, dtype=torch.bool, device=self.device),
            )
            for numbers, _, cell, pbc in structures.split()
        ]
        self.place(structures.positions)
        self.search()
        return sum(len(block.samples) for pairs in self.pairs for _, block in pairs)

    def place(self, positions):
        parts = np.split(positions, self.cuts)
        self.positions = [torch.as_tensor(part, device=self.device).to(self.dtype) for part in parts]

    def search(self):
        """With nvalchemi on a GPU, vesin on a CPU, as in its calculator."""
        systems = [System(types, placed, cell, pbc) for placed, (types, cell, pbc) in zip(self.positions, self.constants, strict=True)]
        self.pairs = [
            [(options, _owned(system.get_neighbor_list(options))) for options in system.known_neighbor_lists()]
            for system in self.lists.compute(systems)
        ]

    def evaluate(self):
        systems, positions, strains = [], [], []
        for placed, (types, cell, pbc), pairs in zip(self.positions, self.constants, self.pairs, strict=True):
            leaf = at = placed.detach().requires_grad_()
            if self.stress:
                strain = torch.eye(3, dtype=self.dtype, device=self.device, requires_grad=True)
                at, cell = leaf @ strain, cell @ strain
                strains.append(strain)
            system = System(types, at, cell, pbc)
            for options, block in pairs:  # only the pairs are read: the model makes the vectors itself
                system.add_neighbor_list(options, block)
            systems.append(system)
            positions.append(leaf)
        options = ModelEvaluationOptions(length_unit="angstrom", outputs=self.energy, selected_atoms=None)
        energy = self.model(systems, options, check_consistency=False)["energy"].block().values
        gradients = torch.autograd.grad(energy.sum(), positions + strains)
        return energy, gradients[: len(positions)], gradients[len(positions) :]

    def answer(self, output):
        energy, forces, virials = output
        answer = {"energy": energy.detach().cpu().numpy().reshape(-1), "forces": -torch.cat(forces).cpu().numpy()}
        if self.stress:
            volumes = [float(torch.det(cell.double()).abs()) for _, cell, _ in self.constants]
            stress = [virial.double().cpu().numpy() / volume for virial, volume in zip(virials, volumes, strict=True)]
            answer["stress"] = np.stack([0.5 * (one + one.T) for one in stress])
        return answer

    def release(self):
        self.positions = self.constants = self.pairs = None

    def calculator(self):
        return MetatomicCalculator(self._saved(), device=self.device)  # of a file: trajectories name it

    def torch_sim_model(self):
        if importlib.util.find_spec("metatomic_torchsim"):
            from metatomic_torchsim import MetatomicModel

            return MetatomicModel(self.model, device=self.device, compute_stress=False)
        from torch_sim.models.metatomic import MetatomicModel  # older releases of TorchSim

        return MetatomicModel(self._saved(), device=self.device, compute_stress=False)

    def _saved(self):
        """The path of a file with the model, gone with the process."""
        self.folder = self.folder or tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "model.pt")
        if not path.is_file():
            self.model.save(path)
        return str(path)


def _random(width, layers, attention_layers, cutoff, neighbors):
    """A shape with random weights, in single precision."""
    shape = copy.deepcopy(get_default_hypers("pet")["model"])
    shape |= {"d_pet": width, "d_head": width, "d_node": 4 * width, "d_feedforward": 2 * width}
    shape |= {"num_gnn_layers": layers, "num_attention_layers": attention_layers, "cutoff": cutoff, "num_neighbors_adaptive": neighbors}
    energy = get_energy_target_info("energy", {"quantity": "energy", "unit": "eV"}, add_position_gradients=True, add_strain_gradients=True)
    torch.manual_seed(0)
    return PET(shape, DatasetInfo(length_unit="angstrom", atomic_types=list(KNOWN_ELEMENTS), targets={"energy": energy}))


def _scripted(exported):
    """As upet readies a model: no gradients by weights, and the module inside as TorchScript."""
    module = torch.jit.script(exported.eval().requires_grad_(False))
    return AtomisticModel(module=module, metadata=module.metadata(), capabilities=module.capabilities())


def _owned(block):
    """The list without its vectors' history; the search may hand out memory that it uses again."""
    samples = Labels(block.samples.names, block.samples.values.clone(), assume_unique=True)
    return TensorBlock(block.values.detach().clone(), samples, block.components, block.properties)
