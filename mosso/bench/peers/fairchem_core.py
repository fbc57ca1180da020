"""fairchem-core: UMA-S, eSEN-sm and AllScAIP-md in the official shapes with random weights, or an inference checkpoint file.

Everything runs through the package's own predict unit, so its inference settings apply as they do for its users.

Backends. ``default``: its settings for arbitrary batches (experts unmerged, no compilation, activation checkpointing). ``fast``:
its fastest settings that random weights can reach (experts merged for the composition at hand, torch.compile, no checkpointing,
and on a GPU the Triton kernels for edge rotations, which it chooses by itself); AllScAIP compiles with its batch padded to the
number of atoms at hand. Its "nitro" kernels accept certain released weights only, by their checksum, and are out of reach.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from fairchem.core import FAIRChemCalculator
from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
from fairchem.core.graph.compute import generate_graph
from fairchem.core.models.base import HydraModel
from fairchem.core.units.mlip_unit import load_predict_unit
from fairchem.core.units.mlip_unit.api.inference import InferenceSettings, MLIPInferenceCheckpoint

DATASETS = ["oc20", "omol", "omat", "odac", "omc"]
UMA, SCAIP = "fairchem.core.models.uma", "fairchem.core.models.allscaip.AllScAIP"
ESCN = {
    "max_num_elements": 100,
    "sphere_channels": 128,
    "lmax": 2,
    "mmax": 2,
    "otf_graph": True,
    "max_neighbors": 300,
    "cutoff": 6.0,
    "edge_channels": 128,
    "num_distance_basis": 64,
    "regress_forces": True,
    "direct_forces": False,
    "num_layers": 4,
    "hidden_channels": 128,
    "norm_type": "rms_norm_sh",
    "act_type": "gate",
    "ff_type": "spectral",
    "chg_spin_emb_type": "rand_emb",
    "cs_emb_grad": True,
    "dataset_list": DATASETS,
}
EXPERTS = {"num_experts": 32, "moe_dropout": 0.05, "moe_layer_type": "pytorch", "use_composition_embedding": True}
ALLSCAIP = {
    "num_layers": 10,
    "hidden_size": 640,
    "direct_forces": False,
    "regress_forces": True,
    "use_compile": False,
    "use_padding": False,
    "dataset_list": DATASETS,
    "use_node_path": True,
    "use_freq_mask": False,
    "use_sincx_mask": False,
    "max_num_elements": 110,
    "max_batch_size": 96,
    "max_atoms": 1000,
    "max_radius": 6.0,
    "use_pbc": True,
    "knn_k": 30,
    "knn_soft": True,
    "knn_sigmoid_scale": 0.2,
    "knn_lse_scale": 0.1,
    "knn_use_low_mem": True,
    "knn_pad_size": 60,
    "atten_name": "memory_efficient",
    "atten_num_heads": 10,
}
BY_DATASET = f"{UMA}.escn_moe.DatasetSpecificSingleHeadWrapper"


def _heads(head):
    """Settings of ``BY_DATASET`` around a head."""
    return {"dataset_names": DATASETS, "head_cls": head, "head_kwargs": {"wrap_property": False}}


# Name: backbone, its settings, head, its settings, the dataset whose energies are asked for, the prefix of its task names.
MODELS = {
    "uma-s": (f"{UMA}.escn_moe.eSCNMDMoeBackbone", ESCN | EXPERTS, BY_DATASET, _heads(f"{UMA}.escn_md.MLP_EFS_Head"), "omat", "omat_"),
    "esen-sm": (f"{UMA}.escn_md.eSCNMDBackbone", ESCN, f"{UMA}.escn_md.MLP_EFS_Head", {}, "omol", ""),
    "allscaip-md": (
        f"{SCAIP}.AllScAIPBackbone",
        ALLSCAIP,
        BY_DATASET,
        _heads(f"{SCAIP}.AllScAIPGradientEnergyForceStressHead"),
        "omol",
        "omol_",
    ),
}
# Of the last layer of the energies of UMA and eSEN: brings forces to tenths of an eV/A.
GAIN = 10.0
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32}


class Adapter:
    packages = (
        *("fairchem-core", "e3nn", "nvalchemi-toolkit-ops", "warp-lang", "nvidia-cutlass-dsl", "triton"),
        *("torch-sim-atomistic", "ase", "numpy"),
    )

    def __init__(self, model, backend, precision, device, weights=None):
        if model not in MODELS:
            raise ValueError(f"fairchem_core.py knows no model {model!r}. Choose from {', '.join(MODELS)}.")
        if backend not in ("default", "fast"):
            raise NotImplementedError(f"fairchem-core has no backend {backend!r}: default, fast")
        if precision not in DTYPES:
            raise NotImplementedError(f"fairchem-core has no precision {precision!r}: {', '.join(DTYPES)}")
        self.attention = model == "allscaip-md"
        if self.attention and precision == "fp64":
            raise NotImplementedError("AllScAIP rounds its node features to single precision inside")
        self.device, self.fast, self.dtype = device, backend == "fast", DTYPES[precision]
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        self.dataset = MODELS[model][4]
        self.folder = tempfile.TemporaryDirectory()  # the predict unit reads its file again whenever its settings change
        self.path = Path(weights or Path(self.folder.name, "random.pt"))
        if weights is None:
            torch.save(_random(*MODELS[model]), self.path)
        self.settings = {
            "tf32": precision == "tf32",
            "activation_checkpointing": not self.fast,
            "merge_mole": self.fast,
            "compile": self.fast,
            "base_precision_dtype": self.dtype,
            "auto_add_default_untrained_tasks": False,
        }
        self.unit, self.unit_for = self._predict_unit(stress=False), None
        self.facts = {
            "parameters": sum(parameter.numel() for parameter in self.unit.model.module.parameters()),
            "weights": "file" if weights else "random",
            "weights_sha256": hashlib.sha256(self.path.read_bytes()).hexdigest() if weights else None,
            "truth": "fp32" if self.attention else "fp64",
            "list_inside": self.attention,
        }

    def prepare(self, structures, stress):
        self.stress = stress
        # Merged experts serve one composition, padded batches one number of atoms.
        wanted = (stress, len(structures.numbers), tuple(np.bincount(structures.numbers)) if self.fast else ())
        fresh = wanted != self.unit_for
        if fresh:
            self.unit, self.unit_for = self._predict_unit(stress, max_atoms=len(structures.numbers), external=not self.attention), wanted
        items = [AtomicData.from_ase(atoms, task_name=self.dataset, target_dtype=torch.float64) for atoms in structures.atoms()]
        self.data = atomicdata_list_to_batch(items).to(self.device)
        if self.dataset == "omol":
            self.data.spin = torch.ones_like(self.data.spin)
        self.offsets = self.data.pos - torch.as_tensor(structures.positions, device=self.device)  # atoms were wrapped into the cell
        for name, value in self.data:
            if torch.is_tensor(value) and value.is_floating_point():
                self.data[name] = value.to(self.dtype)
        if self.attention:
            return None
        self.search()
        if fresh and self.fast:
            # The first call merges the experts, which are on the host until then and expect the atoms there.
            self.unit.predict(self.data.clone().cpu())
        return self.data.edge_index.shape[1]

    def place(self, positions):
        self.data.pos = (torch.as_tensor(positions, device=self.device) + self.offsets).to(self.dtype)

    def search(self):
        """What the model runs itself where edges are not handed in."""
        if self.attention:
            raise NotImplementedError("AllScAIP searches for neighbours inside every evaluation")
        backbone = self.unit.model.module.backbone
        graph = generate_graph(self.data, backbone.cutoff, backbone.max_neighbors, False, backbone.radius_pbc_version, self.data.pbc)
        self.data.edge_index, self.data.cell_offsets, self.data.nedges = graph["edge_index"], graph["cell_offsets"], graph["neighbors"]

    def evaluate(self):
        output = self.unit.predict(self.data)
        if self.fast and not self.unit.inference_settings.compile:  # the package has gone back to its slow path
            raise NotImplementedError("fairchem-core's fast settings serve batches of one composition only")
        return output

    def answer(self, output):
        output = {name: value.detach().cpu().double().numpy() for name, value in output.items()}
        answer = {"energy": output["energy"].reshape(-1), "forces": output["forces"]}
        if self.stress:
            answer["stress"] = output["stress"].reshape(-1, 3, 3)
        return answer

    def release(self):
        self.data = self.offsets = None

    def calculator(self):
        self.unit, self.unit_for = self._predict_unit(stress=True), None
        return FAIRChemCalculator(self.unit, task_name=self.dataset)

    def torch_sim_model(self):
        if sys.version_info < (3, 12):
            raise NotImplementedError("fairchem-core's model for TorchSim wants a release that needs Python 3.12")
        from fairchem.core.calculate.torchsim_interface import FairChemModel

        model = FairChemModel(self.path, device=torch.device(self.device), dtype=self.dtype, task_name=self.dataset)
        model.predictor = self._predict_unit(stress=False)  # with the settings of this backend
        return model

    def _predict_unit(self, stress, max_atoms=None, external=False):
        settings = InferenceSettings(
            **self.settings,
            external_graph_gen=external,
            max_atoms=max_atoms,
            predict_untrained_stress={self.dataset} if stress else set(),
        )
        overrides = {"backbone": {"regress_stress": stress}}
        return load_predict_unit(self.path, inference_settings=settings, overrides=overrides, device=self.device)


def _random(backbone, settings, head, head_settings, dataset, prefix):
    """An inference checkpoint as the package writes them."""
    config = {
        "_target_": "fairchem.core.models.base.HydraModel",
        "model_id": "UMA-1.1",
        "pass_through_head_outputs": True,
        "backbone": {"model": backbone, **settings},
        "heads": {"head": {"module": head, **head_settings}},
    }
    torch.manual_seed(0)
    model = HydraModel(**{name: value for name, value in config.items() if name != "_target_"})
    for name, weight in model.named_parameters():
        if name.endswith("energy_block.4.weight"):
            weight.data *= GAIN
    unit = "fairchem.core.units.mlip_unit.mlip_unit"
    normalizer = {"_target_": "fairchem.core.modules.normalization.normalizer.Normalizer", "mean": 0.0, "rmsd": 1.0}
    tasks = [
        {
            "_target_": f"{unit}.Task",
            "name": prefix + name,
            "level": level,
            "property": name,
            "out_spec": {"_target_": f"{unit}.OutputSpec", "dim": dim, "dtype": "float32"},
            "normalizer": normalizer,
            "datasets": [dataset],
        }
        for name, level, dim in (("energy", "system", [1]), ("forces", "atom", [3]))
    ]
    averaged = torch.optim.swa_utils.AveragedModel(model).state_dict()
    return MLIPInferenceCheckpoint(config, model.state_dict(), averaged, tasks)
