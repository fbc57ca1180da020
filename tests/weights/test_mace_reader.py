"""MACE files: bits and hyperparameters of real and generated checkpoints, and every refusal by name."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mosso.models.mace import MACESpec
from mosso.weights import mace
from mosso.weights.mace import read_mace
from mosso.weights.mace_layout import conv_paths, is_kept
from mosso.weights.mace_spec import read_irreps
from mosso.weights.unpickle import Stub, read_pickle, state_dict

ROOT = Path(__file__).resolve().parents[2]
GOLDENS = ROOT / "tests" / "parity" / "goldens"
GOLDEN = GOLDENS / "small_density_agnesi_zbl.model"
SHARED = Path(os.environ.get("MOSSO_SHARED") or ROOT.parent / "shared") / "checkpoints"
REAL = {"mace_solvent_01.model": "solvent_01", "mace_solvent_01_swa.model": "solvent_01_swa"}

needs_golden = pytest.mark.skipif(not GOLDEN.is_file(), reason=f"{GOLDEN.name} has not been made (tests/parity/README.md)")
real_files = pytest.mark.parametrize("file", REAL)


def real(file: str) -> Path:
    path = SHARED / file
    if not path.is_file():
        pytest.skip(f"{file} is not there: set MOSSO_SHARED to the folder that has checkpoints/{file}")
    return path


def bits(value: torch.Tensor) -> bytes:
    return value.detach().contiguous().numpy().tobytes()


@needs_golden
def test_golden_tensors_bit_for_bit() -> None:
    reference = np.load(GOLDEN.with_name(f"{GOLDEN.stem}_state.npz"))
    kept = [name for name in reference.files if "_w3j_" not in name and not name.endswith("output_mask") and reference[name].size]
    tensors = read_mace(GOLDEN).tensors
    assert list(tensors) == kept
    assert len(kept) > 40
    for name in kept:
        expected = reference[name]
        assert str(tensors[name].dtype) == f"torch.{expected.dtype}" and tuple(tensors[name].shape) == expected.shape, name
        assert bits(tensors[name]) == np.ascontiguousarray(expected).tobytes(), name


@needs_golden
def test_golden_spec() -> None:
    checkpoint = read_mace(GOLDEN)
    about = json.loads(GOLDEN.with_suffix(".json").read_text())["architecture"]
    expected = {
        "species": [8, 29],
        "r_max": 4.5,
        "num_bessel": 8,
        "num_polynomial_cutoff": 5,
        "distance_transform": "agnesi",
        "pair_repulsion": True,
        "apply_cutoff": True,
        "interactions": ["RealAgnosticDensity", "RealAgnosticDensityResidual"],
        "avg_num_neighbors": [12.5, 12.5],
        "radial_mlp": [64, 64, 64],
        "max_ell": 2,
        "hidden_irreps": "8x0e+8x1o",
        "correlation": [2, 2],
        "heads": ["pt_head", "Default"],
        "readout_mlp": 16,
        "scale_shift": True,
        "activation_constant": about["radial_activation_cst"],
        "charge": 0.0,
        "spin": 1,
    }
    assert checkpoint.spec == expected == json.loads(json.dumps(checkpoint.spec))
    spec = MACESpec.from_dict(checkpoint.spec)
    assert spec.num_channels == 8 and spec.heads == ("pt_head", "Default")
    assert checkpoint.architecture == "mace"


@needs_golden
def test_provenance() -> None:
    found = read_mace(GOLDEN, licence="MIT", citation="someone").provenance
    assert found["source"] == GOLDEN.name and found["dtype"] == "float64"
    assert (found["licence"], found["citation"]) == ("MIT", "someone")
    assert len(found["sha256"]) == 64 and found["reader"].startswith("mosso ")
    assert read_mace(GOLDEN).provenance["licence"] == "unknown"


@real_files
def test_real_checkpoints(file: str) -> None:
    """Trained on a GPU by a version of 2023: no heads, no zeroed flags, p in float64, irreps as text in places."""
    checkpoint = read_mace(real(file))
    spec = MACESpec.from_dict(checkpoint.spec)
    assert spec.species == (1, 6, 8) and spec.hidden_irreps == "32x0e" and spec.heads == ("Default",)
    assert spec.interactions == ("RealAgnostic", "RealAgnosticResidual") and spec.correlation == (2, 2) and spec.max_ell == 2
    assert spec.avg_num_neighbors == (9.86205556634933,) * 2 and spec.r_max == 4.0 and spec.num_polynomial_cutoff == 5
    assert spec.activation_constant == 1.6791767923989418 and spec.scale_shift and not spec.pair_repulsion
    everything = state_dict(read_pickle(real(file)))
    assert set(checkpoint.tensors) < set(everything)
    for name, value in checkpoint.tensors.items():
        assert bits(value) == bits(everything[name])
    left_out = set(everything) - set(checkpoint.tensors)
    assert all(name.endswith(("output_mask", "bias", "conv_tp.weight")) for name in left_out)
    assert all(everything[name].numel() == 0 for name in left_out if not name.endswith("output_mask"))


@real_files
def test_real_checkpoints_against_upstream(file: str) -> None:
    """Names, shapes and the checksum that mace-torch itself saw."""
    golden = GOLDENS / f"{REAL[file]}.json"
    if not golden.is_file():
        pytest.skip(f"{golden.name} has not been made (tests/parity/README.md)")
    about = json.loads(golden.read_text())
    checkpoint = read_mace(real(file))
    assert checkpoint.provenance["sha256"] == about["checkpoint"]["sha256"]
    upstream = {entry["name"]: (entry["shape"], entry["dtype"]) for entry in about["state_dict"]}
    for name, value in checkpoint.tensors.items():
        assert upstream[name] == (list(value.shape), str(value.dtype).removeprefix("torch.")), name


def test_all_released_key_names_are_known() -> None:
    assert is_kept("interactions.1.conv_tp_weights.layer3.weight", 10)
    assert is_kept("products.0.symmetric_contractions.contractions.1.weights_max", 10)
    assert not is_kept("interactions.0.conv_tp._compiled_main_left_right._w3j_1_2_1", 45)
    assert not is_kept("interactions.0.linear.bias", 0)
    for name in ("interactions.0.linear.bias", "interactions.0.conv_tp.weight", "joint_embedding.project.0.weight", "r_max.x"):
        with pytest.raises(ValueError, match="variant"):
            is_kept(name, 3)


def test_path_counts_of_released_models() -> None:
    """4 and 10 paths in the medium models, 4 and 17 in the large ones (max_ell 3)."""
    assert [len(conv_paths(list(range(top + 1)), 3)) for top in (0, 1, 2)] == [4, 10, 17]


def test_irreps_text() -> None:
    assert read_irreps("128x0e + 64x1o+2e") == [(128, 0, 1), (64, 1, -1), (1, 2, 1)]


# --- refusals: the golden file with one thing changed --------------------------------------------------------------


def kind(name: str) -> type[Stub]:
    return type("Stub", (Stub,), {"class_name": name})


def rename(stub: Stub, name: str) -> None:
    """Turn a stub into one of another class."""
    stub.__class__ = kind(name)


def at(model: Stub, path: str) -> Stub:
    for name in path.split("."):
        model = model.get(name)
    return model


def drop(model: Stub, path: str, name: str, group: str = "_modules") -> None:
    del (at(model, path) if path else model).state[group][name]


def add_module(model: Stub, name: str) -> None:
    module = kind("mace.modules.blocks.Extra")()
    model.state["_modules"][name] = module


BLOCKS = "mace.modules.blocks."
REFUSALS: dict[str, tuple[Callable[[Stub], object], str]] = {
    "polar": (lambda m: rename(m, "mace.modules.extensions.PolarMACE"), "PolarMACE is not supported"),
    "les": (lambda m: rename(m, "mace.modules.extensions.MACELES"), "MACELES is not supported"),
    "dipoles": (lambda m: rename(m, "mace.modules.models.AtomicDipolesMACE"), "AtomicDipolesMACE is not supported"),
    "energy dipoles": (lambda m: rename(m, "mace.modules.models.EnergyDipolesMACE"), "EnergyDipolesMACE is not supported"),
    "unknown class": (lambda m: rename(m, "mace.modules.models.NewMACE"), "unknown model class mace.modules.models.NewMACE"),
    "another package": (lambda m: rename(m, "nequip.model.Model"), "not a MACE model"),
    "plain class": (lambda m: rename(m, "mace.modules.models.MACE"), "a MACE with scale_shift"),
    "joint embedding": (lambda m: add_module(m, "joint_embedding"), "joint embeddings"),
    "unknown module": (lambda m: add_module(m, "surprise"), "module surprise"),
    "nonlinear": (
        lambda m: rename(at(m, "interactions.0"), f"{BLOCKS}RealAgnosticResidualNonLinearInteractionBlock"),
        "interactions.0 is a RealAgnosticResidualNonLinearInteractionBlock",
    ),
    "attention": (
        lambda m: rename(at(m, "interactions.1"), f"{BLOCKS}RealAgnosticAttResidualInteractionBlock"),
        "RealAgnosticAttResidualInteractionBlock; mosso has",
    ),
    "gate": (
        lambda m: at(m, "readouts.1.non_linearity.acts.0").state.update(f=kind("torch.nn.functional.tanh")),
        "is torch.nn.functional.tanh, mosso knows silu",
    ),
    "radial gate": (
        lambda m: at(m, "interactions.0.conv_tp_weights.layer0.act").state.update(f=kind("torch.nn.functional.relu")),
        "is torch.nn.functional.relu, mosso knows silu",
    ),
    "constants differ": (
        lambda m: at(m, "interactions.1.conv_tp_weights.layer2.act").state.update(cst=1.5),
        "activation constant is given as 1.5 and 1.679",
    ),
    "soft transform": (
        lambda m: rename(at(m, "radial_embedding.distance_transform"), "mace.modules.radial.SoftTransform"),
        "SoftTransform, mosso reads AgnesiTransform",
    ),
    "gaussian basis": (lambda m: rename(at(m, "radial_embedding.bessel_fn"), "mace.modules.radial.GaussianBasis"), "GaussianBasis"),
    "chebyshev basis": (lambda m: rename(at(m, "radial_embedding.bessel_fn"), "mace.modules.radial.ChebychevBasis"), "ChebychevBasis"),
    "other readout": (lambda m: rename(at(m, "readouts.1"), f"{BLOCKS}NonLinearBiasReadoutBlock"), "NonLinearBiasReadoutBlock"),
    "cueq linear": (
        lambda m: rename(at(m, "interactions.0.linear"), "cuequivariance_torch.operations.linear.Linear"),
        "interactions.0.linear is in cuEquivariance layout",
    ),
    "cueq config": (lambda m: at(m, "interactions.0").state.update(cueq_config=cueq_config(True)), "cuEquivariance layout"),
    "oeq": (
        lambda m: rename(at(m, "interactions.0.conv_tp"), "openequivariance.core.TensorProduct"),
        "accelerated backend",
    ),
    "so3": (lambda m: m.state.update(use_so3=True), "use_so3"),
    "agnostic product": (lambda m: m.state.update(use_agnostic_product=True), "use_agnostic_product"),
    "last readout only": (lambda m: m.state.update(use_last_readout_only=True), "use_last_readout_only"),
    "heads": (lambda m: m.state.update(heads=["a", "b", "c"]), "3 names of heads for 2 outputs"),
    "heads missing": (lambda m: m.state.pop("heads"), "0 names of heads for 2 outputs"),
    "neighbours": (lambda m: at(m, "interactions.1").state.update(avg_num_neighbors=None), "avg_num_neighbors is None"),
    "lmax": (lambda m: at(m, "spherical_harmonics").state.update(_lmax=3), "spherical harmonics up to 3"),
    "repulsion flag": (lambda m: m.state.update(pair_repulsion=False), "pair_repulsion"),
    "cutoff flags": (lambda m: m.state.update(apply_cutoff=False), "apply_cutoff is given as False and True"),
    "cutoffs": (
        lambda m: at(m, "radial_embedding.cutoff_fn").state["_buffers"].update(r_max=m.get("pair_repulsion_fn").get("a_exp")),
        "cutoff r_max is given as 0.3",
    ),
    "variance": (lambda m: at(m, "interactions.0.conv_tp_weights.layer0").state.update(var_in=2.0), "variances other than 1"),
    "no self-connection": (lambda m: at(m, "products.1").state.update(use_sc=False), "self-connection"),
    "missing weight": (lambda m: drop(m, "interactions.0.skip_tp", "weight", "_parameters"), "interactions.0.skip_tp.weight is missing"),
    "missing buffer": (lambda m: drop(m, "", "atomic_numbers", "_buffers"), "atomic_numbers"),
    "wrong size": (
        lambda m: at(m, "interactions.1.linear_up").state["_parameters"].update(weight=at(m, "node_embedding.linear").get("weight")),
        "interactions.1.linear_up.weight has 16 numbers where the architecture needs 128",
    ),
    "extra tensor": (
        lambda m: at(m, "scale_shift").state["_buffers"].update(twist=m.get("r_max")),
        "scale_shift.twist belongs to a variant",
    ),
    "missing density": (lambda m: drop(m, "interactions.0", "density_fn"), "density_fn is missing"),
    "a layer less": (lambda m: drop(m, "products", "1"), "number of interactions"),
}


def cueq_config(enabled: bool) -> Stub:
    config = kind("mace.modules.wrapper_ops.CuEquivarianceConfig")()
    config.state["enabled"] = enabled
    return config


@needs_golden
@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, message = REFUSALS[case]
    model = read_pickle(GOLDEN)
    change(model)
    monkeypatch.setattr(mace, "read_pickle", lambda path: model)
    with pytest.raises(ValueError) as caught:
        read_mace(GOLDEN)
    assert message in str(caught.value) and str(caught.value).startswith(f"{GOLDEN}: ")
    assert "\n" not in str(caught.value)


@needs_golden
def test_harmless_differences_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes that older versions lack, constants they had, a disabled accelerator."""
    reference = read_mace(GOLDEN)
    model = read_pickle(GOLDEN)
    for name in ("use_so3", "use_agnostic_product", "apply_cutoff", "use_last_readout_only"):
        model.state.pop(name, None)
    at(model, "radial_embedding").state.pop("apply_cutoff", None)
    at(model, "interactions.0").state["cueq_config"] = cueq_config(False)
    at(model, "pair_repulsion_fn").state["_buffers"]["r_max"] = model.get("r_max")
    monkeypatch.setattr(mace, "read_pickle", lambda path: model)
    found = read_mace(GOLDEN)
    assert found.spec == reference.spec and list(found.tensors) == list(reference.tensors)


def test_training_dictionaries_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "optimizer": {}}, tmp_path / "run.pt")
    with pytest.raises(ValueError, match=r"a dictionary \(model, optimizer"):
        read_mace(tmp_path / "run.pt")
    torch.save(torch.ones(2), tmp_path / "tensor.pt")
    with pytest.raises(ValueError, match="not a MACE model"):
        read_mace(tmp_path / "tensor.pt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_mace(tmp_path / "none.model")
