"""EquiformerV3 (L = 4) from a checkout of its repository, with random weights.

The variable EQUIFORMER_V3_CHECKOUT names the folder of the checkout, which brings the release of fairchem it is built on. What that
needs of torch_scatter is stood in for where it is not installed. It makes its graphs in single precision, in every evaluation.
"""

import os
import sys
import types
from pathlib import Path

import numpy as np
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.utils import scatter, segment

CHECKOUT = "EQUIFORMER_V3_CHECKOUT"
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
    packages = ("torch-geometric", "torch-scatter", "e3nn", "ase", "numpy")

    def __init__(self, model, backend, precision, device, weights=None):
        if model != "equiformer-v3":
            raise ValueError(f"equiformer_v3.py knows no model {model!r}, only equiformer-v3.")
        if backend != "default":
            raise NotImplementedError(f"EquiformerV3 has no backend {backend!r}: default")
        if precision not in MATMUL:
            raise NotImplementedError(f"EquiformerV3 has no precision {precision!r}, for it makes its graphs in fp32: {', '.join(MATMUL)}")
        if weights is not None:
            raise NotImplementedError("EquiformerV3 runs here with random weights only: its checkpoints hold more than the model")
        architecture = _architecture()
        torch.set_float32_matmul_precision(MATMUL[precision])
        torch.manual_seed(0)
        self.device = device
        self.model = architecture(**SHAPE).to(device).eval().requires_grad_(False)
        self.facts = {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "weights": "random",
            "weights_sha256": None,
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
        found = {name: value.detach().cpu().double().numpy() for name, value in output.items()}
        answer = {"energy": found["energy"].reshape(-1), "forces": found["forces"]}
        if self.stress:
            answer["stress"] = found["stress"].reshape(-1, 3, 3)
        return answer

    def release(self):
        self.batch = self.positions = None


def _architecture():
    """The class of the checkout."""
    checkout = Path(os.environ.get(CHECKOUT, ""))
    models = checkout / "experimental" / "models"
    if CHECKOUT not in os.environ or not (models / "equiformer_v3").is_dir():
        raise ValueError(f"Set {CHECKOUT} to the folder of a checkout of EquiformerV3, which holds experimental/models/equiformer_v3.")
    sys.path[:0] = [str(checkout / "src"), str(models)]
    try:
        import torch_scatter  # noqa: F401
    except ImportError:
        sys.modules["torch_scatter"] = _stand_in()
    from equiformer_v3.equiformer_v3 import EquiformerV3_OC

    return EquiformerV3_OC


def _stand_in():
    """The functions of torch_scatter that fairchem calls, by those of torch_geometric."""
    module = types.ModuleType("torch_scatter")

    def summed(src, index, dim=0, out=None, dim_size=None, reduce="sum"):
        assert out is None
        return scatter(src, index, dim=dim, dim_size=dim_size, reduce=reduce)

    module.scatter = module.segment_coo = summed
    module.segment_csr = lambda src, indptr, out=None, reduce="sum": segment(src, indptr, reduce=reduce)
    return module
