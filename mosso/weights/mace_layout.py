"""Names and sizes of the tensors of a stock MACE state dict (upstream's e3nn layout, mace-torch 0.3)."""

import re
from typing import Any

_KEPT = re.compile(
    r"atomic_numbers|r_max|num_interactions|node_embedding\.linear\.weight"
    r"|radial_embedding\.bessel_fn\.(bessel_weights|r_max|prefactor)"
    r"|radial_embedding\.distance_transform\.(q|p|a|covalent_radii)"
    r"|radial_embedding\.cutoff_fn\.(p|r_max)"
    r"|pair_repulsion_fn\.(c|p|covalent_radii|a_exp|a_prefactor)"
    r"|atomic_energies_fn\.atomic_energies"
    r"|interactions\.\d+\.(linear_up|linear|skip_tp|conv_tp_weights\.layer\d+|density_fn\.layer\d+)\.weight"
    r"|products\.\d+\.symmetric_contractions\.contractions\.\d+\.(weights_max|U_matrix_\d+|weights\.\d+|weights_(\d+|max)_zeroed)"
    r"|products\.\d+\.linear\.weight"
    r"|readouts\.\d+\.(linear|linear_1|linear_2)\.weight"
    r"|scale_shift\.(scale|shift)"
)
_EMPTY = re.compile(r".*\.(bias|conv_tp\.weight)")  # e3nn registers them with no elements
_CONSTANT = re.compile(
    r".*\.output_mask|.*_w3j_.*|.*\._compiled.*"  # e3nn's own constants
    r"|pair_repulsion_fn\.(r_max|cutoff\..*)"  # of 2024; upstream's code no longer reads them
)


def is_kept(key: str, elements: int) -> bool:
    """Whether a tensor belongs to a model file; one that is neither kept nor known to be idle is a ValueError."""
    if _KEPT.fullmatch(key):
        return True
    if _CONSTANT.fullmatch(key) or (_EMPTY.fullmatch(key) and elements == 0):
        return False
    raise ValueError(f"tensor {key} belongs to a variant of MACE that mosso does not have")


def conv_paths(degrees_in: list[int], max_ell: int) -> list[tuple[int, int, int]]:
    """(l_in, l_edge, l_out) of the edge convolution: triangle rule, parity of spherical harmonics, l_out <= max_ell."""
    return [
        (l_in, l_edge, l_out)
        for l_in in degrees_in
        for l_edge in range(max_ell + 1)
        for l_out in range(abs(l_in - l_edge), min(l_in + l_edge, max_ell) + 1)
        if (l_in + l_edge + l_out) % 2 == 0
    ]


def _layer_sizes(spec: dict[str, Any], channels: int, layer: int, degrees_in: list[int], degrees_out: list[int]) -> dict[str, int]:
    elements, square = len(spec["species"]), channels * channels
    paths = len(conv_paths(degrees_in, spec["max_ell"]))
    name, prefix = spec["interactions"][layer], f"interactions.{layer}."
    residual = len(set(degrees_in) & set(degrees_out))
    widths = [spec["num_bessel"], *spec["radial_mlp"], paths * channels]
    sizes = {f"{prefix}conv_tp_weights.layer{i}.weight": a * b for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))}
    sizes[f"{prefix}linear_up.weight"] = len(degrees_in) * square
    sizes[f"{prefix}linear.weight"] = paths * square
    sizes[f"{prefix}skip_tp.weight"] = (residual if "Residual" in name else spec["max_ell"] + 1) * square * elements
    if "Density" in name:
        sizes[f"{prefix}density_fn.layer0.weight"] = spec["num_bessel"]
    sizes[f"products.{layer}.linear.weight"] = len(degrees_out) * square
    for index, degree in enumerate(degrees_out):
        contraction = f"products.{layer}.symmetric_contractions.contractions.{index}."
        rows = (2 * degree + 1) * (spec["max_ell"] + 1) ** 2
        sizes[f"{contraction}U_matrix_1"] = rows  # one path, of zeros where l is above max_ell
    return sizes


def expected_sizes(spec: dict[str, Any], channels: int) -> dict[str, int]:
    """Number of elements of every weight that the hyperparameters determine, by state-dict name."""
    heads = len(spec["heads"])
    layers = len(spec["interactions"])
    hidden = list(range(spec["hidden_irreps"].count("+") + 1))
    sizes = {
        "node_embedding.linear.weight": len(spec["species"]) * channels,
        "radial_embedding.bessel_fn.bessel_weights": spec["num_bessel"],
    }
    for layer in range(layers):
        degrees_out = [0] if layer == layers - 1 else hidden
        sizes |= _layer_sizes(spec, channels, layer, [0] if layer == 0 else hidden, degrees_out)
        if layer < layers - 1 or layers == 1:
            sizes[f"readouts.{layer}.linear.weight"] = channels * heads
        else:
            sizes[f"readouts.{layer}.linear_1.weight"] = channels * spec["readout_mlp"] * heads
            sizes[f"readouts.{layer}.linear_2.weight"] = spec["readout_mlp"] * heads * heads
    if spec["pair_repulsion"]:
        sizes["pair_repulsion_fn.c"] = 4
        sizes["pair_repulsion_fn.p"] = 1
    return sizes
