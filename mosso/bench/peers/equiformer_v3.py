"""EquiformerV3: the shape of the published models for materials (L = 4) with random weights, or a checkpoint of any shape.

Its code is that of the package, or of the checkout of its repository that the variable EQUIFORMER_V3_CHECKOUT names, which brings
the release of fairchem it is built on. What that needs of torch_scatter is stood in for where it is not installed. It makes its
graphs in single precision, in every evaluation.

A checkpoint is what fairchem's trainers of that time write: the shape, weights (of which the averaged ones count, where there are
any), and what takes the answers of the network to eV and eV/A. Nothing in it is executed.
"""

import hashlib
import importlib.metadata
import os
import pickle
import re
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.utils import scatter, segment

CHECKOUT = "EQUIFORMER_V3_CHECKOUT"
MODELS = "experimental/models"
CUTOFF = 6.0
# The shape of the published models for materials whose forces are derivatives, with degrees up to 4.
SHAPE = {
    "use_pbc": True,
    "use_pbc_single": True,
    "otf_graph": True,
    "regress_forces": True,
    "regress_stress": True,
    "direct_prediction": False,
    "max_neighbors": 300,
    "max_radius": CUTOFF,
    "num_radial_basis": 64,
    "max_num_elements": 128,
    "num_layers": 7,
    "num_channels": 128,
    "attn_hidden_channels": 32,
    "num_heads": 8,
    "attn_alpha_channels": 64,
    "attn_value_channels": 16,
    "ffn_hidden_channels": 512,
    "norm_type": "merge_layer_norm",
    "lmax": 4,
    "mmax": 2,
    "attn_grid_resolution_list": [14, 8],
    "ffn_grid_resolution_list": [14, 14],
    "edge_channels": 128,
    "use_gate_force_head": False,
    "attn_eps": 1e-8,
    "attn_weights_drop": 0.0,
    "drop_path_rate": 0.0,
    "avg_num_nodes": 1,
}
MATMUL = {"fp32": "highest", "tf32": "high"}


class Adapter:
    packages = ("equiformer_v3", "fairchem-core", "torch-geometric", "torch-scatter", "e3nn", "ase", "numpy")

    def __init__(self, model, backend, precision, device, weights=None):
        if model != "equiformer-v3":
            raise ValueError(f"equiformer_v3.py knows no model {model!r}, only equiformer-v3.")
        if backend != "default":
            raise NotImplementedError(f"EquiformerV3 has no backend {backend!r}: default")
        if precision not in MATMUL:
            raise NotImplementedError(f"EquiformerV3 has no precision {precision!r}, for it makes its graphs in fp32: {', '.join(MATMUL)}")
        torch.set_float32_matmul_precision(MATMUL[precision])
        torch.manual_seed(0)
        self.device = device
        architecture = _architecture()
        self.model, self.scales, self.energy_Z = (architecture(**SHAPE), {}, None) if weights is None else _read(weights, architecture)
        self.model.to(device).eval().requires_grad_(False)
        self.facts = {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "weights": "random" if weights is None else "file",
            "weights_sha256": None if weights is None else hashlib.sha256(Path(weights).read_bytes()).hexdigest(),
            "truth": "fp32",
            "list_inside": True,
        }

    def prepare(self, structures, stress):
        self.model.regress_stress = self.stress = stress
        items = []
        for numbers, positions, cell, pbc in structures.split():
            if pbc.any() and not pbc.all():
                raise NotImplementedError("EquiformerV3 is run with cells that repeat in all directions or in none")
            box = cell if pbc.all() else np.diag(np.ptp(positions, axis=0) + 2 * CUTOFF)  # images out of sight
            items.append(
                Data(
                    pos=torch.zeros(len(numbers), 3),
                    cell=torch.as_tensor(box, dtype=torch.float32)[None],
                    atomic_numbers=torch.as_tensor(numbers),
                    natoms=torch.tensor([len(numbers)]),
                    pbc=torch.ones(1, 3, dtype=torch.bool),
                    tags=torch.zeros(len(numbers)),
                    fixed=torch.zeros(len(numbers)),
                )
            )
        self.batch = Batch.from_data_list(items).to(self.device)
        self.place(structures.positions)

    def place(self, positions):
        self.positions = torch.as_tensor(positions, device=self.device).float()

    def evaluate(self):
        self.batch.pos = self.positions.clone()  # the model differentiates by what it is given, and puts strained ones there
        return self.model(self.batch)

    def answer(self, output):
        found = {name: value.detach().cpu().double() for name, value in output.items()}
        for name, (mean, scale) in self.scales.items():
            if name in found:
                found[name] = found[name] * scale + mean
        energy_B = found["energy"].reshape(-1)
        if self.energy_Z is not None:
            energy_B = energy_B.index_add(0, self.batch.batch.cpu(), self.energy_Z[self.batch.atomic_numbers.cpu()])
        answer = {"energy": energy_B.numpy(), "forces": found["forces"].numpy()}
        if self.stress:
            answer["stress"] = found["stress"].reshape(-1, 3, 3).numpy()
        return answer

    def release(self):
        self.batch = self.positions = None


def _architecture():
    """The class of the model; nothing but the files of the model is loaded, for its trainers need more packages."""
    models = _folder()
    if models is None:
        raise ValueError(
            f"EquiformerV3 is not here: install equiformer_v3, or set {CHECKOUT} to a checkout, which holds {MODELS}/equiformer_v3."
        )
    package = types.ModuleType("equiformer_v3")
    package.__path__ = [str(models / "equiformer_v3")]
    sys.modules["equiformer_v3"] = package
    try:
        import torch_scatter  # noqa: F401
    except ImportError:
        sys.modules["torch_scatter"] = _stand_in()
    from equiformer_v3.equiformer_v3 import EquiformerV3_OC

    return EquiformerV3_OC


def _folder():
    """Where the files of the model lie, if anywhere."""
    if checkout := os.environ.get(CHECKOUT):
        root = Path(checkout)
        sys.path.insert(0, str(root / "src"))  # its release of fairchem
    else:
        try:
            root = Path(importlib.metadata.distribution("equiformer_v3").locate_file("equiformer_v3"))
        except importlib.metadata.PackageNotFoundError:
            return None
    models = root / MODELS
    return models if (models / "equiformer_v3").is_dir() else None


def _read(path, architecture):
    """The model of a checkpoint; what answers are multiplied by and shifted by, by name; energies of the elements by atomic number."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        shape, weights = dict(held["config"]["model"]), held["state_dict"]
        name = shape.pop("name")
    except (pickle.UnpicklingError, KeyError, TypeError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is no checkpoint of a trainer of fairchem: give one that holds config and state_dict.") from error
    if name != "equiformer_v3":
        raise ValueError(f"{path} holds a model {name!r}: give one of equiformer_v3.")
    model = architecture(**shape)
    model.load_state_dict({re.sub(r"^(module\.)+", "", key): value for key, value in weights.items()})
    if averaged := (held.get("ema") or {}).get("shadow_params"):
        for parameter, value in zip((one for one in model.parameters() if one.requires_grad), averaged, strict=True):
            parameter.data.copy_(value)
    # older trainers wrote the scale as the standard deviation that it is
    scales = {key: (float(one["mean"]), float(one.get("rmsd", one.get("std")))) for key, one in held.get("normalizers", {}).items()}
    elements = held.get("elementrefs", {}).get("energy")
    return model, scales, None if elements is None else elements["element_references"].double().reshape(-1)


def _stand_in():
    """The functions of torch_scatter that fairchem calls, by those of torch_geometric."""
    module = types.ModuleType("torch_scatter")

    def summed(src, index, dim=0, out=None, dim_size=None, reduce="sum"):
        assert out is None
        return scatter(src, index, dim=dim, dim_size=dim_size, reduce=reduce)

    module.scatter = module.segment_coo = summed
    module.segment_csr = lambda src, indptr, out=None, reduce="sum": segment(src, indptr, reduce=reduce)
    return module
