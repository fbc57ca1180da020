"""Fresh stock tensors of untrained models."""

import torch
from torch import Tensor

from mosso.math.coupling import convolution_paths, symmetric_coupling
from mosso.math.radial import COVALENT_RADII, bessel_frequencies
from mosso.models.mace import MACESpec


def initial_tensors(spec: MACESpec, seed: int = 0) -> dict[str, Tensor]:
    """Stock float64 tensors of an untrained model: unit-normal weights as upstream, coupling tensors of our own."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}

    def normal(name: str, *shape: int, scale: float = 1.0) -> None:
        tensors[name] = scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    channels, num_species, num_heads = spec.num_channels, len(spec.species), len(spec.heads)
    radii = torch.tensor(COVALENT_RADII, dtype=torch.float64)
    normal("node_embedding.linear.weight", num_species * channels)
    tensors["radial_embedding.bessel_fn.bessel_weights"] = bessel_frequencies(spec.num_bessel, spec.r_max)
    if spec.distance_transform == "agnesi":
        for name, value in (("q", 0.9183), ("p", 4.5791), ("a", 1.0805)):
            tensors[f"radial_embedding.distance_transform.{name}"] = torch.tensor(value, dtype=torch.float64)
        tensors["radial_embedding.distance_transform.covalent_radii"] = radii
    if spec.pair_repulsion:
        zbl = {"c": [0.1818, 0.5099, 0.2802, 0.02817], "a_exp": 0.3, "a_prefactor": 0.4543}
        tensors |= {f"pair_repulsion_fn.{name}": torch.tensor(value, dtype=torch.float64) for name, value in zbl.items()}
        tensors |= {"pair_repulsion_fn.covalent_radii": radii.clone(), "pair_repulsion_fn.p": torch.tensor(6)}
    for layer, kind in enumerate(spec.interactions):
        prefix, degrees_in = f"interactions.{layer}.", spec.degrees_in(layer)
        num_paths = len(convolution_paths(degrees_in, spec.max_ell))
        normal(f"{prefix}linear_up.weight", len(degrees_in) * channels**2)
        widths = (spec.num_bessel, *spec.radial_mlp, num_paths * channels)
        for depth, (fan_in, fan_out) in enumerate(zip(widths, widths[1:], strict=False)):
            normal(f"{prefix}conv_tp_weights.layer{depth}.weight", fan_in, fan_out)
        normal(f"{prefix}linear.weight", num_paths * channels**2)
        num_skip = len([d for d in degrees_in if d in spec.degrees_out(layer)]) if kind.endswith("Residual") else spec.max_ell + 1
        normal(f"{prefix}skip_tp.weight", num_skip * channels * num_species * channels)
        if "Density" in kind:
            normal(f"{prefix}density_fn.layer0.weight", spec.num_bessel, 1)
        for i, degree in enumerate(spec.degrees_out(layer)):
            contraction = f"products.{layer}.symmetric_contractions.contractions.{i}."
            for nu in range(spec.correlation[layer], 0, -1):
                u = torch.tensor(symmetric_coupling(spec.max_ell, degree, nu))
                tensors[f"{contraction}U_matrix_{nu}"] = u[0] if degree == 0 else u
                last = spec.correlation[layer]
                name = "weights_max" if nu == last else f"weights.{last - 1 - nu}"
                normal(contraction + name, num_species, u.shape[-1], channels, scale=1.0 / max(u.shape[-1], 1))
        normal(f"products.{layer}.linear.weight", len(spec.degrees_out(layer)) * channels**2)
        if layer < spec.num_layers - 1:
            normal(f"readouts.{layer}.linear.weight", channels * num_heads)
        else:
            normal(f"readouts.{layer}.linear_1.weight", channels * spec.readout_mlp * num_heads)
            normal(f"readouts.{layer}.linear_2.weight", spec.readout_mlp * num_heads * num_heads)
    tensors["atomic_energies_fn.atomic_energies"] = torch.zeros(num_heads, num_species, dtype=torch.float64)
    if spec.scale_shift:
        tensors["scale_shift.scale"] = torch.ones(num_heads, dtype=torch.float64)
        tensors["scale_shift.shift"] = torch.zeros(num_heads, dtype=torch.float64)
    return tensors
