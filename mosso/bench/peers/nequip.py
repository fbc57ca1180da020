"""Adapter for nequip 0.19.1 with nequip-allegro 0.8.3.

Backends: ``eager``; ``compiled``, nequip's compile mode, which takes batches of two or more and has the stress computed always;
``aoti``, what nequip-compile makes (torch 2.10 and later refuse its TorchScript mode). Behind ``aoti-``, a kernel: ``openequivariance``
(nequip), ``cuequivariance`` (both) or ``triton`` (allegro), on CUDA. A compiled package is made when first needed: one each for single
structures and batches, without stress and with.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from ase.data import chemical_symbols
from nequip.data import AtomicDataDict, from_ase
from nequip.integrations.ase import NequIPCalculator
from nequip.integrations.utils import basic_transforms, handle_chemical_species_map
from nequip.model.inference_models import load_compiled_model
from nequip.model.saved_models.load_utils import load_saved_model
from nequip.scripts._compile_utils import COMPILE_TARGET_DICT
from nequip.train import NequIPLightningModule
from nequip.utils import get_current_code_versions
from nequip.utils.global_state import set_global_state

SPECIES = [chemical_symbols[number] for number in (*range(1, 84), *range(89, 95))]  # those of the Materials Project
DTYPES = {"fp64": "float64", "fp32": "float32", "tf32": "float32"}
KERNELS = {
    ("nequip", "openequivariance"): "enable_OpenEquivariance",
    ("nequip", "cuequivariance"): "enable_CuEquivariance",
    ("allegro", "cuequivariance"): "enable_CuEquivarianceContracter",
    ("allegro", "triton"): "enable_TritonContracter",
}


def _mlp(depth: int, width: int) -> dict[str, int]:
    return {"allegro_mlp_hidden_layers_depth": depth, "allegro_mlp_hidden_layers_width": width}


# What all shapes share; the scales of energies are such that forces of random weights
# have the size of trained ones: tenths of an eV/A, but some eV/A where they are set against the repulsion of ZBL.
SHARED = {"seed": 1, "type_names": SPECIES, "r_max": 6.0, "avg_num_neighbors": 62.0121, "per_type_energy_shifts": 0.0}
ZBL = {"_target_": "nequip.nn.pair_potential.ZBL", "units": "metal", "chemical_species": SPECIES}
NEQUIP = {
    "_target_": "nequip.model.PresetNequIPGNNModel",
    "bessel_trainable": True,
    "polynomial_cutoff_p": 5,
    "pair_potential": ZBL,
    "per_type_energy_scales_trainable": True,
}
ALLEGRO = {
    "_target_": "allegro.model.AllegroModel",
    "parity": False,
    "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 8},
    "radial_chemical_embed_dim": 32,
    "scalar_embed_mlp_hidden_layers_depth": 2,
    "scalar_embed_mlp_hidden_layers_width": 64,
    "readout_mlp_hidden_layers_depth": 0,
    "readout_mlp_hidden_layers_width": 1,
}
WIDE = {"num_scalar_features": 128, "num_tensor_features": 128, **_mlp(3, 512)}
SLIM = {"num_scalar_features": 64, "num_tensor_features": 64, **_mlp(2, 256)}
MODELS: dict[str, dict[str, Any]] = {
    "nequip-oam-s": {**NEQUIP, "preset": "S", "per_type_energy_scales": 60.0},
    "nequip-oam-m": {**NEQUIP, "preset": "M", "per_type_energy_scales": 100.0},
    "nequip-oam-l": {**NEQUIP, "preset": "L", "per_type_energy_scales": 120.0, "type_embed_num_features": 48},
    "nequip-oam-xl": {**NEQUIP, "preset": "XL", "per_type_energy_scales": 300.0},
    "allegro-s": {**ALLEGRO, **SLIM, "l_max": 2, "num_layers": 2, "per_type_energy_scales": 3.0},
    "allegro-m": {**ALLEGRO, **SLIM, "l_max": 3, "num_layers": 2, "per_type_energy_scales": 3.0},
    "allegro-l": {**ALLEGRO, **WIDE, "l_max": 3, "num_layers": 3, "per_type_energy_scales": 3.0},
}
# Up to here nequip-compile compares what it has made with the plain model.
CHECKED_EDGES = 100_000
# nequip-compile, with the determinant of a cell (for the stress) written out: AOTInductor knows no kernel for torch's, which would be
# called through an interpreter of operations inside the compiled package.
NEQUIP_COMPILE = """
import faulthandler, torch
faulthandler.enable()
def determinant(cells):
    a, b, c = cells.unbind(-2)
    return (a * torch.linalg.cross(b, c)).sum(-1)
torch.linalg.det = determinant
from nequip.scripts.compile import main
main()
"""
# The compiler of packages. For CUDA torch 2.11 links them with the C++ library as a static one, behind a static CUDA runtime, and they die
# of signal 11 in its regular expressions when they are loaded: what reads the name of the device uses those.
COMPILER = """#!/bin/sh
case " $* " in *" -shared "*) set -- "$@" -Wl,-Bdynamic;; esac
exec {} "$@"
"""


class Adapter:
    packages = (
        *("nequip", "nequip-allegro", "e3nn", "cuequivariance", "cuequivariance-ops-torch-cu13", "openequivariance"),
        *("torch-sim-atomistic", "ase"),
    )

    def __init__(self, model: str, backend: str, precision: str, device: str, weights: str | None = None) -> None:
        self.mode, _, kernel = backend.partition("-")
        self.modifier = KERNELS.get((model.partition("-")[0], kernel))
        if self.mode not in ("eager", "compiled", "aoti") or (kernel and (self.mode != "aoti" or self.modifier is None)):
            raise NotImplementedError(f"no backend {backend!r} for {model}: eager, compiled, aoti, or aoti- and one of its kernels")
        if kernel and device == "cpu":
            raise NotImplementedError(f"the kernels of {kernel} need CUDA")
        if precision not in DTYPES:
            raise NotImplementedError(f"no precision {precision!r}, only {list(DTYPES)}")
        if weights is None and model not in MODELS:
            raise NotImplementedError(f"no shape of {model!r} is known; there are {', '.join(MODELS)}")
        self.device, self.tf32, self.folder = device, precision == "tf32", tempfile.mkdtemp()
        set_global_state(allow_tf32=False)  # models of float64 refuse to be built with it
        self.path, truth = self._checkpoint(model, weights, DTYPES[precision])
        set_global_state(allow_tf32=self.tf32)
        self.model = load_saved_model(self.path, compile_mode="compile" if self.mode == "compiled" else "eager").eval()
        self.facts = {
            "parameters": sum(weight.numel() for weight in self.model.parameters()),
            "weights": "file" if weights else "random",
            "weights_sha256": hashlib.sha256(Path(weights).read_bytes()).hexdigest() if weights else None,
            "truth": truth,
        }
        names = self.model.metadata["type_names"].split(" ")
        types = handle_chemical_species_map(True, names)
        self.known = {chemical_symbols.index(symbol) for symbol in types}
        self.to_types, self.find_edges = basic_transforms(self.model.metadata, float(self.model.metadata["r_max"]), names, types)
        self.outputs_of: dict[tuple[bool, bool], Any] = {}
        for weight in self.model.parameters():
            weight.requires_grad_(False)
        if self.mode != "aoti":  # otherwise only what was compiled goes to the device
            self.model.to(device)
        self.release()

    def _checkpoint(self, model: str, weights: str | None, dtype: str) -> tuple[str, str]:
        """A file with the weights in a precision, and the most exact precision there is."""
        if weights is None:
            shape = {**SHARED, **MODELS[model], "model_dtype": "float32"}
            drawn = _training_module(shape).model["sole_model"]
        else:
            drawn = load_saved_model(weights).eval()
            stored = str(drawn.model_dtype).removeprefix("torch.")
            if stored == dtype and stored == "float64":
                return weights, "fp64"
            if weights.endswith(".nequip.zip"):
                if stored != dtype:
                    raise NotImplementedError(f"a package keeps the precision it was made with, {stored}")
                return weights, "fp32"
            shape = torch.load(weights, map_location="cpu", weights_only=False)["hyper_parameters"]["model"]
            if stored == dtype or "model_dtype" not in shape:
                return weights, "fp64" if "model_dtype" in shape else "fp32"
        path = str(Path(self.folder, f"{dtype}.ckpt"))
        _write_checkpoint({**shape, "model_dtype": dtype}, dict(drawn.named_parameters()), path)
        return path, "fp64"

    def prepare(self, structures: Any, stress: bool) -> int:
        unknown = sorted(set(structures.numbers.tolist()) - self.known)
        if unknown:
            raise NotImplementedError(f"the model does not know the elements {unknown}")
        self.batched, self.stress = len(structures.cells) > 1, stress
        if self.mode == "compiled" and not self.batched:
            raise NotImplementedError("nequip's compile mode runs single structures uncompiled; there is eager, and aoti")
        frames = [self.to_types(from_ase(atoms)) for atoms in structures.atoms()]
        self.frames = AtomicDataDict.batched_from_list(frames) if self.batched else frames[0]
        self.place(structures.positions)
        self.search()
        if self.mode == "aoti":
            self._compiled(self.batched, stress)
        else:
            self._differentiate_inside(stress or self.mode == "compiled")
        return self.data[AtomicDataDict.EDGE_INDEX_KEY].shape[1]

    def place(self, positions: np.ndarray) -> None:
        self.frames[AtomicDataDict.POSITIONS_KEY] = torch.from_numpy(positions)
        self.positions = torch.from_numpy(positions).to(self.device).requires_grad_(self.mode == "eager" and not self.stress)

    def search(self) -> None:
        """Its own by matscipy, on the host."""
        data = self.find_edges(dict(self.frames))
        self.data = {name: value.to(self.device) for name, value in data.items()}

    def evaluate(self) -> dict[str, torch.Tensor]:
        data = self.data | {AtomicDataDict.POSITIONS_KEY: self.positions}
        if self.mode == "aoti":
            return self.outputs_of[self.batched, self.stress](data)
        output = self.model(data)
        if not self.inside:
            energy = output[AtomicDataDict.TOTAL_ENERGY_KEY]
            output[AtomicDataDict.FORCE_KEY] = -torch.autograd.grad(energy.sum(), self.positions)[0]
        return output

    def answer(self, output: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        names = {"energy": AtomicDataDict.TOTAL_ENERGY_KEY, "forces": AtomicDataDict.FORCE_KEY, "stress": AtomicDataDict.STRESS_KEY}
        wanted = names if self.stress else {name: names[name] for name in ("energy", "forces")}
        found = {name: output[key].detach().double().cpu().numpy() for name, key in wanted.items()}
        return found | {"energy": found["energy"].reshape(-1)}

    def release(self) -> None:
        self.frames = self.data = self.positions = None

    def calculator(self) -> NequIPCalculator:
        if self.mode == "aoti":
            self._compiled(batched=False, stress=True)
            return NequIPCalculator.from_compiled_model(self._package(False, True), self.device, chemical_species_to_atom_type_map=True)
        if self.mode == "compiled":
            raise NotImplementedError("nequip's compile mode runs single structures uncompiled; there is eager, and aoti")
        self._differentiate_inside(True)
        return NequIPCalculator(self.model, self.device, transforms=[self.to_types, self.find_edges])

    def torch_sim_model(self) -> Any:
        from nequip.integrations.torchsim import NequIPTorchSimCalc

        if self.mode != "aoti":
            raise NotImplementedError("nequip runs in TorchSim as a compiled package; there is aoti")
        self._compiled(batched=True, stress=True)
        package = self._package(True, True)
        return NequIPTorchSimCalc.from_compiled_model(package, self.device, True, neighborlist_backend=self.find_edges.backend)

    def write_weights(self, path: str) -> None:
        Path(path).write_bytes(Path(self.path).read_bytes())

    def _differentiate_inside(self, inside: bool) -> None:
        """Forces and stress come out of the model together; or it gives the energy alone, and only positions are differentiated."""
        self.inside = inside
        for module in self.model.modules():
            if hasattr(module, "do_derivatives"):
                module.do_derivatives = inside

    def _package(self, batched: bool, stress: bool) -> str:
        return str(Path(self.folder, f"{'batch' if batched else 'single'}-{'stress' if stress else 'forces'}.nequip.pt2"))

    def _compiled(self, batched: bool, stress: bool) -> None:
        """Has nequip-compile make a package, tuned on the atoms at hand, and loads it."""
        if (batched, stress) in self.outputs_of:
            return
        target = COMPILE_TARGET_DICT["batch" if batched else "ase"]
        outputs = [name for name in target["output"] if stress or name != AtomicDataDict.STRESS_KEY]
        example, package = str(Path(self.folder, "example.pt")), self._package(batched, stress)
        data = self.data
        if batched and not self.batched:
            data = AtomicDataDict.batched_from_list([self.data, self.data])
        _write_example({name: data[name] for name in target["input"]}, example)
        command = [sys.executable, "-c", NEQUIP_COMPILE, self.path, package, "--mode", "aotinductor", "--device", self.device]
        command += ["--data-path", example, "--input-fields", *target["input"], "--output-fields", *outputs]
        command += ["--num-frames", "2,inf" if batched else "static", "--tf32" if self.tf32 else "--no-tf32"]
        if self.modifier is not None:
            command += ["--modifiers", self.modifier]
        # Its check stays, so that a package that crashes does so over there; but every answer is judged by who asked for it, the plain
        # model that it compares with may not fit where atoms are many, and vacuum has no stress to compare.
        check = {f"NEQUIP_{dtype}_MODEL_TOL": "1.0" for dtype in ("FLOAT64", "FLOAT32", "TF32")}
        unchecked = data[AtomicDataDict.EDGE_INDEX_KEY].shape[1] > CHECKED_EDGES or not data[AtomicDataDict.CELL_KEY].any()
        check["NEQUIP_SKIP_AOTI_MODEL_CHECK"] = "yes" if unchecked else "no"
        compiler = Path(self.folder, "c++")
        compiler.write_text(COMPILER.format(os.environ.get("CXX", "g++")))
        compiler.chmod(0o700)
        done = subprocess.run(
            command,
            env=os.environ | check | {"CXX": str(compiler)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(done.stdout)
        if done.returncode:
            raise RuntimeError(f"nequip-compile failed ({done.returncode}): {_cause(done.stdout)}")
        self.outputs_of[batched, stress], _ = load_compiled_model(package, self.device, target["input"], outputs)


def _cause(said: str) -> str:
    """Why nequip-compile died: the frames on top of its stack where a signal has ended it, else the last line that it wrote."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
    fatal = next((index for index, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if fatal is None:
        return lines[-1]
    # The other threads come first.
    current = next((index for index, line in enumerate(lines) if index > fatal and line.startswith("Current thread")), fatal)
    frames = [re.sub(r"/\S*/(site-packages|lib)/", "", line) for line in lines[current:] if line.startswith("File ")]
    return "; ".join([lines[fatal], *frames[:3]])


def _training_module(shape: dict[str, Any]) -> NequIPLightningModule:
    """What nequip saves as a checkpoint, of a model that was never trained."""
    info = {
        "versions": get_current_code_versions(verbose=False),
        "training_module": {"_target_": "nequip.train.NequIPLightningModule"},
    }
    return NequIPLightningModule(model=shape, num_datasets={"train": 1, "val": 0, "test": 0, "predict": 0}, info_dict=info)


def _write_checkpoint(shape: dict[str, Any], weights: dict[str, torch.Tensor], path: str) -> None:
    """A checkpoint as training leaves it; only weights are taken over, so that constants have the precision of the shape."""
    module = _training_module(shape)
    with torch.no_grad():
        for name, weight in module.model["sole_model"].named_parameters():
            weight.copy_(weights[name])
    parts = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(parts | {"pytorch-lightning_version": lightning.__version__}, path)


def _write_example(data: dict[str, torch.Tensor], path: str) -> None:
    """Tensors by name, in the form that nequip-compile reads."""
    holder = torch.nn.Module()
    for name, value in data.items():
        holder.register_buffer(name, value.detach().cpu().contiguous())
    torch.jit.script(holder).save(path)
