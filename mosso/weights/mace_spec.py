"""The hyperparameters of a MACE file, from the shapes of its tensors and the attributes of its (inert) modules.

Shapes are believed over attributes, since files of 2023 lack many attributes; where both exist they must agree.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from mosso.math.irreps import Irreps as Notation
from mosso.models.mace import INTERACTIONS
from mosso.weights.mace_layout import expected_sizes
from mosso.weights.unpickle import StoredTensor, Stub

_REFUSED_OPTIONS = {
    "use_so3": "uses SO(3) irreps without parity",
    "use_agnostic_product": "shares its product basis between elements",
    "use_last_readout_only": "reads energies from the last layer only",
}
Irreps = list[tuple[int, int, int]]  # (multiplicity, l, parity)


def read_irreps(value: Any) -> Irreps:
    """(multiplicity, l, parity) of an e3nn Irreps stub, or of its text."""
    if isinstance(value, str):
        return [(term.mul, term.l, term.parity) for term in Notation.parse(value).terms]
    if not isinstance(value, Stub) or value.kind != "Irreps" or not value.args:
        raise ValueError(f"irreps are due where the file has {value!r}")
    try:
        return [(int(mul), int(ir.args[0][0]), int(ir.args[0][1])) for mul, ir in (term.args[0] for term in value.args[0])]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError("the file writes irreps in a form this reader does not know") from error


def name_of(value: Any) -> str:
    """Dotted name of a stub, a stub class or anything else; of builtins pickled as getattr(module, name), their name."""
    if isinstance(value, Stub) and value.class_name == "builtins.getattr" and len(value.args) == 2:
        return str(value.args[1])
    return str(getattr(value, "class_name", None) or value)


def require_kind(module: Any, name: str, *kinds: str) -> Stub:
    """``module`` when its class is one of ``kinds``; otherwise a refusal that names both."""
    if not isinstance(module, Stub):
        raise ValueError(f"module {name} is missing")
    if module.kind not in kinds:
        raise ValueError(f"{name} is a {name_of(module)}, mosso reads {' or '.join(kinds)}")
    if module.class_name.split(".")[0] not in ("mace", "e3nn", "torch"):
        raise ValueError(f"{name} is a {name_of(module)} of an accelerated backend: save the model with plain e3nn layers")
    return module


def children(module: Stub, name: str) -> list[Stub]:
    """Entries of a ModuleList in order."""
    return [child for _, child in sorted(require_kind(module.get(name), name, "ModuleList").modules.items(), key=lambda kv: int(kv[0]))]


def number(value: Any, name: str) -> float:
    """A Python, numpy or torch scalar as float."""
    if isinstance(value, StoredTensor):
        value = value.tensor()
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    if isinstance(value, Stub) and value.kind == "scalar" and len(value.args) == 2:  # numpy.core.multiarray.scalar(dtype, bytes)
        code = getattr(value.args[0], "args", ("?",))[0]
        if code in ("f8", "f4", "i8", "i4") and isinstance(value.args[1], bytes):
            return float(np.frombuffer(value.args[1], dtype=f"<{code}")[0])
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"{name} is {value!r}, a number is due")


def _count(value: Any, name: str) -> int:
    whole = number(value, name)
    if whole != int(whole):
        raise ValueError(f"{name} is {whole}, a whole number is due")
    return int(whole)


def _agree(name: str, values: Any) -> Any:
    """The one value all places give."""
    distinct = sorted(set(values))
    if len(distinct) != 1:
        raise ValueError(f"{name} is given as {' and '.join(map(str, distinct)) or 'nothing'} in different places")
    return distinct[0]


def _activation_constant(module: Any, name: str) -> float:
    """Constant of e3nn's normalised silu."""
    act = require_kind(module, name, "normalize2mom")
    gate = name_of(act.get("f"))
    if gate.rpartition(".")[2].lower() != "silu":
        raise ValueError(f"the activation of {name} is {gate}, mosso knows silu")
    if act.get("_is_id", False):
        raise ValueError(f"the activation of {name} is not normalised")
    return number(act.get("cst"), f"{name}.cst")


def _network(module: Stub, name: str) -> tuple[tuple[int, ...], list[float]]:
    """Layer sizes of an e3nn FullyConnectedNet and the constants of its activations."""
    layers = [layer for _, layer in sorted(module.modules.items(), key=lambda kv: int(kv[0].removeprefix("layer")))]
    sizes: list[int] = []
    constants: list[float] = []
    for index, layer in enumerate(layers):
        where = f"{name}.layer{index}"
        weight = require_kind(layer, where, "_Layer").get("weight")
        if not isinstance(weight, StoredTensor) or len(weight.shape) != 2 or (sizes and sizes[-1] != weight.shape[0]):
            raise ValueError(f"{where}.weight does not continue the layers before it")
        if any(number(layer.get(variance, 1), where) != 1 for variance in ("var_in", "var_out")):
            raise ValueError(f"{where} has variances other than 1")
        sizes = [*sizes, weight.shape[1]] if sizes else list(weight.shape)
        if index < len(layers) - 1:
            constants.append(_activation_constant(layer.get("act"), f"{where}.act"))
        elif layer.get("act") is not None:
            raise ValueError(f"{where} has an activation after the last layer")
    return tuple(sizes), constants


def _radial(model: Stub, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    embedding = require_kind(model.get("radial_embedding"), "radial_embedding", "RadialEmbeddingBlock")
    require_kind(embedding.get("bessel_fn"), "radial_embedding.bessel_fn", "BesselBasis")
    require_kind(embedding.get("cutoff_fn"), "radial_embedding.cutoff_fn", "PolynomialCutoff")
    transform = embedding.get("distance_transform")
    if transform is not None:
        require_kind(transform, "radial_embedding.distance_transform", "AgnesiTransform")
    repulsion = model.get("pair_repulsion_fn")
    if repulsion is not None:
        require_kind(repulsion, "pair_repulsion_fn", "ZBLBasis")
    if bool(model.get("pair_repulsion", False)) != (repulsion is not None):
        raise ValueError("the attribute pair_repulsion and the module pair_repulsion_fn disagree")
    keys = ("r_max", "radial_embedding.bessel_fn.r_max", "radial_embedding.cutoff_fn.r_max")
    flags = [bool(part.get("apply_cutoff")) for part in (model, embedding) if part.get("apply_cutoff") is not None]
    return {
        "r_max": _agree("the cutoff r_max", [float(tensors[key]) for key in keys if key in tensors]),
        "num_bessel": tensors["radial_embedding.bessel_fn.bessel_weights"].numel(),
        "num_polynomial_cutoff": _count(tensors["radial_embedding.cutoff_fn.p"], "radial_embedding.cutoff_fn.p"),
        "distance_transform": "none" if transform is None else "agnesi",
        "pair_repulsion": repulsion is not None,
        "apply_cutoff": _agree("apply_cutoff", flags or [True]),
    }


def _interactions(model: Stub) -> tuple[dict[str, Any], list[float]]:
    blocks = children(model, "interactions")
    names, neighbors, hidden, constants = [], [], [], []
    for index, block in enumerate(blocks):
        where = f"interactions.{index}"
        name = block.kind.removesuffix("InteractionBlock")
        if name == "RealAgnosticResidualNonLinear":
            raise ValueError(f"{where} is a {block.kind} (MACE-MH and OMOL models): mosso does not have this block yet")
        if name not in INTERACTIONS:
            raise ValueError(f"{where} is a {block.kind}; mosso has {', '.join(INTERACTIONS)}")
        for part, kind in (("linear_up", "Linear"), ("linear", "Linear"), ("skip_tp", "FullyConnectedTensorProduct")):
            require_kind(block.get(part), f"{where}.{part}", kind)
        require_kind(block.get("conv_tp"), f"{where}.conv_tp", "TensorProduct")
        network = require_kind(block.get("conv_tp_weights"), f"{where}.conv_tp_weights", "FullyConnectedNet")
        sizes, layer_constants = _network(network, f"{where}.conv_tp_weights")
        if "Density" in name:
            density = require_kind(block.get("density_fn"), f"{where}.density_fn", "FullyConnectedNet")
            if _network(density, f"{where}.density_fn")[0] != (sizes[0], 1):
                raise ValueError(f"{where}.density_fn is not a single linear layer")
        names.append(name)
        neighbors.append(number(block.get("avg_num_neighbors"), f"{where}.avg_num_neighbors"))
        hidden.append(sizes[1:-1])
        constants += layer_constants
    spec = {
        "interactions": names,
        "avg_num_neighbors": neighbors,
        "radial_mlp": list(_agree("the radial network", hidden)),
    }
    return spec, constants


def _products(model: Stub, tensors: Mapping[str, Tensor], names: list[str]) -> tuple[dict[str, Any], int]:
    """Hidden irreps, correlation and max_ell from the symmetric contractions; and the number of channels."""
    correlation, irreps, widths, channels = [], [], [], []
    for index, block in enumerate(children(model, "products")):
        where = f"products.{index}"
        require_kind(block, where, "EquivariantProductBasisBlock")
        if block.get("use_agnostic_product", False):
            raise ValueError(f"{where} shares its product basis between elements (use_agnostic_product), which mosso does not have")
        if "Residual" in names[index] and not block.get("use_sc", True):
            raise ValueError(f"{where} drops the self-connection of its residual interaction")
        contraction = require_kind(block.get("symmetric_contractions"), f"{where}.symmetric_contractions", "SymmetricContraction")
        orders = []
        for j, child in enumerate(children(contraction, "contractions")):
            prefix = f"{where}.symmetric_contractions.contractions.{j}."
            require_kind(child, prefix.removesuffix("."), "Contraction")
            orders.append(sum(key.startswith(f"{prefix}U_matrix_") for key in tensors))
            widths.append(tensors[f"{prefix}U_matrix_1"].shape[-2])
            channels.append(tensors[f"{prefix}weights_max"].shape[-1])
        correlation.append(_agree(f"the correlation of {where}", orders))
        irreps.append(read_irreps(contraction.get("irreps_out")))
    count = _agree("the number of channels", channels)
    degrees = spherical_degrees(irreps[0], count)
    max_ell = round(_agree("max_ell", widths) ** 0.5) - 1
    for index, layer in enumerate(irreps[1:], start=1):
        last = index == len(irreps) - 1
        if spherical_degrees(layer, count) != ([0] if last else degrees):
            kept = "keeps more than scalars (keep_last_layer_irreps)" if last else "differs from the first layer"
            raise ValueError(f"layer {index} {kept}, which mosso does not have")
    sphere = model.get("spherical_harmonics")
    if isinstance(sphere, Stub) and sphere.get("_lmax", max_ell) != max_ell:
        raise ValueError(f"spherical harmonics up to {sphere.get('_lmax')} and a product basis up to {max_ell} disagree")
    text = "+".join(f"{count}x{degree}{'o' if degree % 2 else 'e'}" for degree in degrees)
    return {"max_ell": max_ell, "hidden_irreps": text, "correlation": correlation}, count


def spherical_degrees(irreps: Irreps, channels: int) -> list[int]:
    """[0, 1, ..., L] when every degree has ``channels`` copies and the parity of spherical harmonics, else a refusal."""
    degrees = [degree for _, degree, _ in irreps]
    if any(mul != channels or parity != (-1) ** degree for mul, degree, parity in irreps) or degrees != list(range(len(degrees))):
        shown = "+".join(f"{mul}x{degree}{'e' if parity == 1 else 'o'}" for mul, degree, parity in irreps)
        raise ValueError(f"hidden irreps {shown}: mosso needs the same channels for l = 0, 1, ... with parity (-1)^l")
    return degrees


def _heads(model: Stub, tensors: Mapping[str, Tensor], channels: int) -> list[str]:
    energies = tensors["atomic_energies_fn.atomic_energies"]
    readouts = children(model, "readouts")
    key = "readouts.0.linear.weight"
    count = tensors[key].numel() // channels if key in tensors else 0
    heads = model.get("heads")
    names = ["Default"] if heads is None and count == 1 else [str(head) for head in heads or ()]
    if len(names) != count or not readouts:
        raise ValueError(f"{len(names)} names of heads for {count} outputs of the first readout")
    if len(set(names)) != len(names):
        raise ValueError(f"head names repeat ({', '.join(names)})")
    if energies.ndim > 2 or (energies.ndim == 2 and energies.shape[0] not in (1, count)):
        raise ValueError(f"atomic energies of shape {tuple(energies.shape)} do not fit {count} heads")
    return names


def _readouts(model: Stub, tensors: Mapping[str, Tensor], layers: int, channels: int, heads: int) -> tuple[int, list[float]]:
    """Hidden scalars per head of the last readout (0 where it is linear) and its activation's constant."""
    readouts = children(model, "readouts")
    if len(readouts) != layers:
        raise ValueError(f"{len(readouts)} readouts for {layers} layers")
    for index, readout in enumerate(readouts):
        linear = index < layers - 1 or layers == 1  # upstream gives a model of one layer a linear readout only
        require_kind(readout, f"readouts.{index}", "LinearReadoutBlock" if linear else "NonLinearReadoutBlock")
    if layers == 1:
        return 0, []
    where = f"readouts.{layers - 1}"
    activation = require_kind(readouts[-1].get("non_linearity"), f"{where}.non_linearity", "Activation")
    acts = activation.get("acts")
    members = list(acts.modules.values()) if isinstance(acts, Stub) else []
    if len(members) != 1 or members[0] is None:
        raise ValueError(f"{where} has {'no activation' if members else 'an unknown activation'} (gate), mosso knows silu")
    hidden, rest = divmod(tensors[f"{where}.linear_1.weight"].numel(), channels * heads)
    if rest:
        raise ValueError(f"{where}.linear_1.weight does not fit {channels} channels and {heads} heads")
    return hidden, [_activation_constant(members[0], f"{where}.non_linearity")]


def _check_sizes(spec: dict[str, Any], channels: int, tensors: Mapping[str, Tensor]) -> None:
    """Every weight has the size the hyperparameters ask for."""
    for key, size in expected_sizes(spec, channels).items():
        if key not in tensors:
            raise ValueError(f"tensor {key} is missing")
        if tensors[key].numel() != size:
            found = tensors[key].numel()
            raise ValueError(f"tensor {key} has {found} numbers where the architecture needs {size} (edge_irreps or another variant)")


def read_spec(model: Stub, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of MACESpec as plain data.

    Args:
        model: stub of the upstream module, its class already checked.
        tensors: its state dict.

    Raises:
        ValueError: anything this package's MACE does not have, or that the file gives in two different ways.
    """
    species = tensors["atomic_numbers"].tolist()
    if not species or species != sorted(set(species)) or not 0 < species[0] <= species[-1] < 119:
        raise ValueError(f"atomic numbers {species} are not ascending elements")
    for option, meaning in _REFUSED_OPTIONS.items():
        if model.get(option, False):
            raise ValueError(f"it {meaning} ({option}), which mosso does not have")
    spec: dict[str, Any] = {"species": species, **_radial(model, tensors)}
    interactions, constants = _interactions(model)
    layers = len(interactions["interactions"])
    products, channels = _products(model, tensors, interactions["interactions"])
    spec |= interactions | products
    spec["heads"] = _heads(model, tensors, channels)
    spec["readout_mlp"], readout_constants = _readouts(model, tensors, layers, channels, len(spec["heads"]))
    if layers != len(spec["correlation"]) or ("num_interactions" in tensors and int(tensors["num_interactions"]) != layers):
        raise ValueError("the number of interactions is given in different ways")
    spec["scale_shift"] = model.kind == "ScaleShiftMACE"
    spec["activation_constant"] = _agree("the activation constant", constants + readout_constants)
    spec["charge"], spec["spin"] = 0.0, 1
    _check_sizes(spec, channels, tensors)
    return spec
