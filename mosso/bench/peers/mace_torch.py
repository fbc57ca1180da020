"""Adapter for mace-torch 0.3.16, with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 in the environment.

Backends: ``e3nn``; ``cueq`` with cuequivariance (and its ops on CUDA); ``oeq`` with openequivariance; ``hybrid`` with both. Behind
each, ``-compiled`` is mace's compiled mode as its calculator sets it up, ``-graphs`` the same with torch's own CUDA graphs.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from e3nn import o3
from mace import modules
from mace.calculators import MACECalculator
from mace.data.neighborhood import get_neighborhood

NUMBERS = list(range(1, 90))
CUTOFF = 6.0
SHAPES = {
    "mace-mp0-small": "128x0e",
    "mace-mp0-medium": "128x0e+128x1o",
    "mace-mp0-large": "128x0e+128x1o+128x2e",
}
# Factors on random weights with which forces come out at tenths of an eV/A, as those of a trained model.
GAINS = {"node_embedding.linear.weight": 4.0, "interactions.0.linear.weight": 27.0, "interactions.1.linear.weight": 27.0}
BACKENDS = ("e3nn", "cueq", "oeq", "hybrid")
COMPILE_MODES = {"compiled": "default", "graphs": "reduce-overhead"}
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "tf32": torch.float32}
# Compiled calls after a search: edges are filled up to a number that does not change, as mace's calculator fills them up.
HEADROOM, MULTIPLE = 1.25, 64


def random_model(model: str) -> torch.nn.Module:
    """The MP-0 shape with random weights in float64."""
    torch.manual_seed(0)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    built = modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=10,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(NUMBERS),
        hidden_irreps=o3.Irreps(SHAPES[model]),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(NUMBERS)),
        avg_num_neighbors=61.96,
        atomic_numbers=NUMBERS,
        correlation=3,
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    with torch.no_grad():
        for name, weight in built.named_parameters():
            weight.mul_(GAINS.get(name, 1.0))
    return built


class Adapter:
    packages = ("mace-torch", "e3nn", "cuequivariance", "cuequivariance-ops-torch-cu13", "openequivariance", "torch-sim-atomistic", "ase")

    def __init__(self, model: str, backend: str, precision: str, device: str, weights: str | None = None) -> None:
        self.kind, _, mode = backend.partition("-")
        if self.kind not in BACKENDS or (mode and mode not in COMPILE_MODES):
            raise NotImplementedError(f"no backend {backend!r}, only {BACKENDS}, alone or with one of {list(COMPILE_MODES)} behind a dash")
        if self.kind in ("oeq", "hybrid") and device == "cpu":
            raise NotImplementedError("openequivariance needs CUDA")
        if mode == "graphs" and device == "cpu":
            raise NotImplementedError("CUDA graphs need CUDA")
        if precision not in DTYPES:
            raise NotImplementedError(f"no precision {precision!r}, only {list(DTYPES)}")
        if weights is None and model not in SHAPES:
            raise NotImplementedError(f"no shape of {model!r} is known; there is one of {list(SHAPES)}")
        self.device, self.dtype, self.mode = device, DTYPES[precision], COMPILE_MODES.get(mode)
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.set_default_dtype(torch.float64)  # weights are read and drawn as they are, and rounded afterwards
        self.weights = weights
        self.source = torch.load(weights, map_location="cpu", weights_only=False) if weights else random_model(model)
        self.numbers = self.source.atomic_numbers.cpu().numpy()
        self.cutoff = float(self.source.r_max)
        heads = [head.lower() for head in getattr(self.source, "heads", ["default"])]
        self.head = heads.index("default") if "default" in heads else 0
        self.module = self._compiled(self._converted())
        self.facts = {
            "parameters": sum(weight.numel() for weight in self.source.parameters()),
            "weights": "file" if weights else "random",
            "weights_sha256": hashlib.sha256(Path(weights).read_bytes()).hexdigest() if weights else None,
            "truth": "fp64",
        }
        self.release()

    def _fresh(self) -> torch.nn.Module:
        """The model as mace saves it, in the precision and on the device asked for; nobody else holds it."""
        torch.set_default_dtype(self.dtype)
        return copy.deepcopy(self.source).to(self.dtype).to(self.device)

    def _converted(self) -> torch.nn.Module:
        """In the operations of the backend."""
        module = self._fresh()
        if self.kind == "e3nn":
            return module
        return importlib.import_module(f"mace.cli.convert_e3nn_{self.kind}").run(module, device=self.device).to(self.device)

    def _compiled(self, module: torch.nn.Module) -> torch.nn.Module:
        """As ``MACECalculator`` sets a model up; derivatives of openequivariance are taken outside of what is compiled."""
        self.differentiated_inside = self.mode is not None and self.kind in ("e3nn", "cueq")
        if self.mode is not None:
            from mace.tools.compile import configure_autograd_for_compile, disable_e3nn_codegen, prepare, simplify
            from mace.tools.scripts_utils import extract_model

            configure_autograd_for_compile(allow_autograd=self.differentiated_inside)
            if self.kind == "e3nn":
                module = torch.compile(prepare(extract_model)(model=module, map_location=self.device), mode=self.mode, fullgraph=True)
            else:
                with disable_e3nn_codegen():
                    module = torch.compile(simplify(module), mode=self.mode, fullgraph=False)
        for weight in module.parameters():
            weight.requires_grad_(False)
        return module

    def prepare(self, structures: Any, stress: bool) -> int:
        if self.mode is not None:
            torch._dynamo.reset()  # compiled for the shapes of one system, never for shapes in general
        unknown = sorted(set(structures.numbers.tolist()) - set(self.numbers.tolist()))
        if unknown:
            raise NotImplementedError(f"the model does not know the elements {unknown}")
        self.structures, self.stress, self.capacity = structures, stress, 0
        counts = np.bincount(structures.system)
        self.sizes, self.starts = (len(structures.numbers), len(counts)), np.cumsum(counts) - counts
        species = torch.from_numpy(np.searchsorted(self.numbers, structures.numbers))
        self.atoms = {
            "node_attrs": torch.nn.functional.one_hot(species, len(self.numbers)).to(self.device, self.dtype),
            "batch": torch.from_numpy(structures.system).long().to(self.device),
            "ptr": torch.from_numpy(np.append(self.starts, self.sizes[0])).to(self.device),
            "head": torch.full((len(counts),), self.head, device=self.device),
        }
        self.place(structures.positions)
        self.graph = self._edges(structures.positions) | self.atoms
        return self.graph["edge_index"].shape[1]

    def place(self, positions: np.ndarray) -> None:
        self.at = positions
        moved = torch.from_numpy(positions).to(self.device, self.dtype)
        self.positions = (torch.cat([moved, moved.new_zeros(1, 3)]) if self.capacity else moved).requires_grad_()

    def search(self) -> None:
        """mace's own search by matscipy, on the host."""
        if self.mode is not None and not self.capacity:
            edges = self.graph["edge_index"].shape[1]
            self.capacity = -(-int(HEADROOM * edges) // MULTIPLE) * MULTIPLE
            self.atoms = self._with_an_atom_apart(self.atoms)
            self.place(self.at)
        self.graph = self._filled_up(self._edges(self.at)) | self.atoms

    def _edges(self, positions: np.ndarray) -> dict[str, torch.Tensor]:
        """Edges of every structure, and the cells that mace gives directions without a period."""
        found: dict[str, list[np.ndarray]] = {"edge_index": [], "shifts": [], "unit_shifts": [], "cell": []}
        parts = np.split(positions, self.starts[1:])
        for start, part, cell, pbc in zip(self.starts, parts, self.structures.cells, self.structures.pbc, strict=True):
            index, *others = get_neighborhood(part, self.cutoff, tuple(map(bool, pbc)), np.array(cell))
            for arrays, array in zip(found.values(), (index.T + start, *others), strict=True):
                arrays.append(array)
        graph = {name: torch.from_numpy(np.concatenate(arrays)) for name, arrays in found.items()}
        reals = {name: graph[name].to(self.device, self.dtype) for name in ("shifts", "unit_shifts", "cell")}
        return reals | {"edge_index": graph["edge_index"].to(self.device).long().T.contiguous()}

    def _with_an_atom_apart(self, atoms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """One more structure of one atom, which holds the edges that fill up."""
        return {
            "node_attrs": torch.cat([atoms["node_attrs"], torch.eye(len(self.numbers))[:1].to(atoms["node_attrs"])]),
            "batch": torch.cat([atoms["batch"], atoms["batch"].new_full((1,), self.sizes[1])]),
            "ptr": torch.cat([atoms["ptr"], atoms["ptr"].new_full((1,), self.sizes[0] + 1)]),
            "head": torch.cat([atoms["head"], atoms["head"][:1]]),
        }

    def _filled_up(self, graph: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """With edges too long to count, up to the capacity."""
        missing = self.capacity - graph["edge_index"].shape[1]
        if not self.capacity:
            return graph
        if missing < 0:
            raise ValueError(f"{-missing} edges more than there is room for: the atoms have moved too far since they were prepared")
        far = torch.tensor([2.0 * self.cutoff, 0.0, 0.0]).to(graph["shifts"])
        return {
            "edge_index": torch.cat([graph["edge_index"], graph["edge_index"].new_full((2, missing), self.sizes[0])], dim=1),
            "shifts": torch.cat([graph["shifts"], far.expand(missing, 3)]),
            "unit_shifts": torch.cat([graph["unit_shifts"], torch.eye(3).to(far)[:1].expand(missing, 3)]),
            "cell": torch.cat([graph["cell"], 2.0 * self.cutoff * torch.eye(3).to(far)]),
        }

    def _begin_step(self) -> None:
        """Else torch's CUDA graphs are recorded anew while an answer of before is kept."""
        if self.mode == COMPILE_MODES["graphs"]:
            torch.compiler.cudagraph_mark_step_begin()

    def _with_steps(self, simulated: Any, method: str) -> Any:
        """A model for dynamics that begins a step at every call of ``method``; tensors it gives outlive the next step."""
        call = getattr(simulated, method)

        @functools.wraps(call)
        def step(*arguments: Any, **options: Any) -> Any:
            self._begin_step()
            given = call(*arguments, **options)
            return {name: value.clone() for name, value in given.items()} if isinstance(given, dict) else given

        if self.mode == COMPILE_MODES["graphs"]:
            setattr(simulated, method, step)
        return simulated

    def evaluate(self) -> dict[str, torch.Tensor]:
        self._begin_step()
        data = self.graph | {"positions": self.positions}  # a new one, because mace writes strained positions and shifts into it
        if self.stress and self.mode is not None and not self.differentiated_inside:
            num_systems = len(data["ptr"]) - 1
            data["displacement"] = self.positions.new_zeros(num_systems, 3, 3) + 0.0 * self.positions.sum()
        return self.module(data, training=self.differentiated_inside, compute_stress=self.stress)

    def answer(self, output: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        rows = {"energy": self.sizes[1], "forces": self.sizes[0]} | ({"stress": self.sizes[1]} if self.stress else {})
        return {name: output[name][:count].detach().double().cpu().numpy() for name, count in rows.items()}

    def release(self) -> None:
        self.structures = self.atoms = self.graph = self.positions = self.at = None
        self.capacity = 0
        self._simulated: dict[str, Any] = {}  # models for dynamics by engine: compiled once, not at the start of every run
        if self.mode is not None:
            torch._dynamo.reset()  # graphs hold memory

    def calculator(self) -> MACECalculator:
        if "ase" not in self._simulated:
            calculator = MACECalculator(
                models=[self._fresh()],
                device=self.device,
                default_dtype=str(self.dtype).removeprefix("torch."),
                enable_cueq=self.kind in ("cueq", "hybrid"),
                enable_oeq=self.kind in ("oeq", "hybrid"),
                compile_mode=self.mode,
            )
            self._simulated["ase"] = self._with_steps(calculator, "calculate")
        return self._simulated["ase"]

    def torch_sim_model(self) -> Any:
        """mace's own model for TorchSim, or TorchSim's for mace where TorchSim is an older one."""
        if "torch_sim" not in self._simulated:
            self._simulated["torch_sim"] = self._with_steps(self._new_torch_sim_model(), "forward")
        return self._simulated["torch_sim"]

    def _new_torch_sim_model(self) -> Any:
        try:
            from mace.calculators.mace_torchsim import MaceTorchSimModel
            from torch_sim.neighbors import torchsim_nl  # noqa: F401
        except ImportError:
            from torch_sim.models.mace import MaceModel

            if self.mode is not None:
                raise NotImplementedError("this release of TorchSim takes no compiled model") from None
            return MaceModel(self._converted(), device=torch.device(self.device), dtype=self.dtype, compute_stress=False)
        build = functools.partial(MaceTorchSimModel, enable_cueq=self.kind in ("cueq", "hybrid"), enable_oeq=self.kind in ("oeq", "hybrid"))
        return build(self._fresh(), torch.device(self.device), self.dtype, compute_stress=False, compile_mode=self.mode)

    def write_weights(self, path: str) -> None:
        torch.save(self.source, path)
