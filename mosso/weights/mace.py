"""Reader of MACE ``.model`` files (mace-torch, 2023 to 0.3.16): executes nothing, needs no upstream package."""

import hashlib
from pathlib import Path

from torch import Tensor

from mosso.version import VERSION
from mosso.weights.checkpoint import Checkpoint
from mosso.weights.mace_layout import is_kept
from mosso.weights.mace_spec import name_of, read_spec
from mosso.weights.unpickle import Stub, named_modules, read_pickle, state_dict

CITATION = "Batatia et al., MACE: Higher Order Equivariant Message Passing Neural Networks, NeurIPS 2022, arXiv:2206.07697"
_MODELS = ("MACE", "ScaleShiftMACE")
_REFUSED_MODELS = {
    "PolarMACE": "it has long-range electrostatics (MACE-POLAR)",
    "MACELES": "it has latent Ewald summation (LES)",
    "AtomicDipolesMACE": "it predicts dipoles, not energies",
    "AtomicDielectricMACE": "it predicts dielectric properties, not energies",
    "EnergyDipolesMACE": "it predicts dipoles beside energies",
    "LAMMPS_MACE": "it is wrapped for LAMMPS; give the .model file it was made from",
    "LAMMPS_MLIAP_MACE": "it is wrapped for LAMMPS; give the .model file it was made from",
}
_MODULES = {
    "node_embedding",
    "radial_embedding",
    "spherical_harmonics",
    "atomic_energies_fn",
    "interactions",
    "products",
    "readouts",
    "scale_shift",
    "pair_repulsion_fn",
}
_REFUSED_MODULES = {
    "joint_embedding": "it embeds total charge, spin or other properties (joint embeddings)",
    "embedding_readout": "it reads energies out of a joint embedding",
    "les": "it has latent Ewald summation (LES)",
}


def read_mace(path: str | Path, licence: str = "unknown", citation: str = CITATION) -> Checkpoint:
    """The model in a MACE ``.model`` file.

    Args:
        path: file written by ``torch.save(model)``.
        licence: licence of the weights, where the caller knows it (files do not say).
        citation: what a user of the weights should cite.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not such a file, damaged, or a variant this package does not have; the message names it.
    """
    path = Path(path)
    model = read_pickle(path)
    try:
        _check_model(model)
        everything = state_dict(model)
        spec = read_spec(model, everything)
        tensors = {key: value for key, value in everything.items() if is_kept(key, value.numel())}
    except KeyError as error:
        raise ValueError(f"{path}: cannot convert this MACE model: tensor {error} is missing.") from error
    except ValueError as error:
        raise ValueError(f"{path}: cannot convert this MACE model: {error}.") from error
    provenance = {
        "source": path.name,
        "sha256": file_sha256(path),
        "dtype": trained_dtype(tensors),
        "reader": f"mosso {VERSION} {name_of(model)}",
        "licence": licence,
        "citation": citation,
    }
    return Checkpoint("mace", spec, tensors, provenance)


def _check_model(model: object) -> None:
    """Refuse by name what is not a plain MACE in upstream's stock layout."""
    if isinstance(model, dict):
        keys = ", ".join(map(str, list(model)[:4]))
        raise ValueError(f"it is a dictionary ({keys}, ...), not a model: give the .model file of the same run")
    if not isinstance(model, Stub) or not model.class_name.startswith("mace."):
        raise ValueError(f"it holds a {name_of(model)}, not a MACE model")
    if model.kind in _REFUSED_MODELS:
        raise ValueError(f"{model.kind} is not supported, {_REFUSED_MODELS[model.kind]}")
    if model.kind not in _MODELS:
        raise ValueError(f"unknown model class {name_of(model)}; mosso reads {' and '.join(_MODELS)}")
    for name in model.modules:
        if name in _REFUSED_MODULES:
            raise ValueError(f"{_REFUSED_MODULES[name]}, which is not supported")
        if name not in _MODULES:
            raise ValueError(f"it has a module {name} that mosso does not know")
    if (model.kind == "ScaleShiftMACE") != ("scale_shift" in model.modules):
        raise ValueError(f"a {model.kind} {'without' if model.kind != 'MACE' else 'with'} scale_shift is inconsistent")
    for name, module in named_modules(model):
        package = module.class_name.split(".")[0]
        config = module.get("cueq_config")
        if package.startswith("cuequivariance") or (isinstance(config, Stub) and config.get("enabled", False)):
            raise ValueError(
                f"{name or 'it'} is in cuEquivariance layout ({name_of(module)}): convert it back with mace_cueq_to_e3nn and read that file"
            )


def trained_dtype(tensors: dict[str, Tensor]) -> str:
    """Name of the number format of the weights, e.g. ``float64``; mixed formats are a ValueError."""
    dtypes = {value.dtype for key, value in tensors.items() if key.endswith(".weight") and value.is_floating_point()}
    if len(dtypes) != 1:
        raise ValueError(f"weights have {', '.join(sorted(map(str, dtypes))) or 'no'} number formats, one is due")
    return str(dtypes.pop()).removeprefix("torch.")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
