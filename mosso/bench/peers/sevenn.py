"""SevenNet: the official models that its wheel carries, or a checkpoint file; e3nn, cuEquivariance, OpenEquivariance or FlashTP."""

import hashlib

import numpy as np
import sevenn._keys as KEY
import torch
from sevenn import _const
from sevenn.atom_graph_data import AtomGraphData
from sevenn.calculator import SevenNetCalculator
from sevenn.nn import cue_helper, flash_helper, oeq_helper
from sevenn.train.dataload import unlabeled_atoms_to_graph
from sevenn.util import load_checkpoint
from torch_geometric.loader.dataloader import Collater

MODELS = {"7net-0": _const.SEVENNET_0_11Jul2024, "7net-l3i5": _const.SEVENNET_l3i5}
# Whether a backend's kernels are there; all but the plain one want a GPU.
BACKENDS = {
    "e3nn": lambda: True,
    "cueq": cue_helper.is_cue_available,
    "oeq": oeq_helper.is_oeq_available,
    "flash": flash_helper.is_flash_available,
}
MATMUL = {"fp64": "highest", "fp32": "highest", "tf32": "high"}


class Adapter:
    packages = (
        "sevenn",
        "e3nn",
        "cuequivariance",
        "cuequivariance-torch",
        "cuequivariance-ops-torch-cu13",
        "openequivariance",
        "flashTP_e3nn",
        "torch-geometric",
        "torch-sim-atomistic",
        "matscipy",
        "ase",
        "numpy",
    )

    def __init__(self, model, backend, precision, device, weights=None):
        if model not in MODELS and weights is None:
            raise ValueError(f"sevenn.py knows no model {model!r}. Choose from {', '.join(MODELS)}, or give a checkpoint as weights.")
        if backend not in BACKENDS:
            raise NotImplementedError(f"sevenn has no backend {backend!r}: {', '.join(BACKENDS)}")
        if precision not in MATMUL:
            raise NotImplementedError(f"sevenn has no precision {precision!r}: {', '.join(MATMUL)}")
        if not BACKENDS[backend]() or (backend != "e3nn" and device == "cpu"):
            raise NotImplementedError(f"sevenn's backend {backend} is not installed here or has no GPU to run on")
        if precision == "fp64" and backend != "e3nn":
            raise NotImplementedError("sevenn is made for single precision; only its plain layers could be cast to double")
        self.device, self.dtype = device, torch.float64 if precision == "fp64" else torch.float32
        torch.set_float32_matmul_precision(MATMUL[precision])
        checkpoint = weights or MODELS[model]
        self.model = load_checkpoint(checkpoint).build_model(
            enable_cueq=backend == "cueq", enable_oeq=backend == "oeq", enable_flash=backend == "flash"
        )
        self.model = self.model.to(self.dtype).to(device).eval().requires_grad_(False)
        if precision == "fp64":
            _double_species(self.model)
        self.model.eval_type_map = torch.tensor(True)  # atomic numbers in, as its calculator does
        with open(checkpoint, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.facts = {
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "weights": "file" if weights else "official",
            "weights_sha256": digest,
            "truth": "fp64",
        }

    def prepare(self, structures, stress):
        # Stress is always computed: forces and virial are both sums of the gradient by the edge vectors.
        self.atoms, self.stress = structures.atoms(), stress
        self.parts = np.flatnonzero(np.diff(structures.system)) + 1
        self.batched = len(self.atoms) > 1
        self.positions = structures.positions
        self.search()
        return self.data[KEY.EDGE_IDX].shape[1]

    def place(self, positions):
        self.positions = positions
        self.placed = torch.as_tensor(positions, device=self.device)
        self.vectors_of_list = False

    def search(self):
        graphs, shifts = [], []
        for atoms, positions in zip(self.atoms, np.split(self.positions, self.parts), strict=True):
            atoms.positions = positions
            graph = unlabeled_atoms_to_graph(atoms, float(self.model.cutoff), with_shift=True)
            shifts.append(graph.pop(KEY.CELL_SHIFT) @ graph.pop(KEY.CELL))
            if self.dtype == torch.float64:  # the package would round to single precision
                graph = {key: torch.as_tensor(value) if isinstance(value, np.ndarray) else value for key, value in graph.items()}
                graphs.append(AtomGraphData(**graph))
            else:
                graphs.append(AtomGraphData.from_numpy_dict(graph))
        data = Collater([], follow_batch=None, exclude_keys=None)(graphs) if self.batched else graphs[0]
        self.data = data.to(self.device)
        self.model.set_is_batch_data(self.batched)
        self.shifts = torch.as_tensor(np.concatenate(shifts), device=self.device)
        self.vectors_of_list = True

    def evaluate(self):
        if not self.vectors_of_list:  # in double precision, then rounded, as its search leaves them
            senders, receivers = self.data[KEY.EDGE_IDX]
            vectors = self.placed[receivers] - self.placed[senders] + self.shifts
            self.data[KEY.EDGE_VEC] = vectors.to(self.dtype)
        return self.model(self.data)

    def answer(self, output):
        answer = {
            "energy": output[KEY.PRED_TOTAL_ENERGY].detach().cpu().numpy().reshape(-1),
            "forces": output[KEY.PRED_FORCE].detach().cpu().numpy(),
        }
        if self.stress:  # xx, yy, zz, xy, yz, xz, compression positive
            voigt = output[KEY.PRED_STRESS].detach().cpu().numpy().reshape(-1, 6)
            answer["stress"] = -voigt[:, [[0, 3, 5], [3, 1, 4], [5, 4, 2]]]
        return answer

    def release(self):
        self.atoms = self.data = self.shifts = self.placed = None

    def calculator(self):
        if self.dtype == torch.float64:
            raise NotImplementedError("sevenn's calculator feeds single precision")
        return SevenNetCalculator(self.model, device=self.device)

    def torch_sim_model(self):
        if self.dtype == torch.float64:
            raise NotImplementedError("sevenn's model for TorchSim feeds single precision")
        try:
            from sevenn.torchsim import SevenNetModel
        except ImportError as error:  # what older releases of TorchSim bring themselves fails with this sevenn
            reason = str(error.__cause__ or error).split(" (")[0]  # the path of a file follows
            raise NotImplementedError(f"sevenn's model for TorchSim, of Python 3.12 on, cannot be imported ({reason})") from None
        return SevenNetModel(self.model, device=self.device)


def _double_species(model):
    """Its one-hot vectors of species are written in single precision; the layers after them get double."""

    def cast(module, arguments, data):
        for key in (KEY.NODE_FEATURE, KEY.NODE_ATTR):
            data[key] = data[key].double()

    model.onehot_idx_to_onehot.register_forward_hook(cast)
