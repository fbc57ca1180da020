"""Which implementation of an op runs.

``auto`` takes the implementation that has been measured to be right and fast on the device of the tensors; one asked
for by name runs or is a ValueError that says why it cannot, never something else in silence.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from mosso.kernels import reference
from mosso.kernels.reference import Virials, neighbor_list
from mosso.math.coupling import ContractionTable, CouplingPath

IMPLEMENTATIONS = ("auto", "reference", "triton")
HAS_TRITON = find_spec("triton") is not None


def triton_obstacle(*tensors: Tensor) -> str | None:
    """Why Triton cannot run an op on these tensors of real numbers, None where it can."""
    if not HAS_TRITON:
        return "triton is not installed (it comes with torch builds for CUDA)"
    dtype, device = tensors[0].dtype, tensors[0].device
    for tensor in tensors:
        if tensor.dtype != dtype or tensor.device != device:
            return f"its inputs are both {dtype} on {device} and {tensor.dtype} on {tensor.device}"
    if dtype not in (torch.float32, torch.float64):
        return f"it computes in float32 or float64, and its inputs are {dtype}"
    return _device_obstacle(str(device))


def _device_obstacle(device: str) -> str | None:
    if not device.startswith("cuda"):
        from mosso.kernels import fused

        return None if fused.INTERPRETED else f"it runs on CUDA devices, and its inputs are on {device}"
    if torch.version.cuda and torch.cuda.get_device_capability(device) < (7, 0):
        return f"it needs compute capability 7.0, and {torch.cuda.get_device_name(device)} is older"
    return None


# All that torch.compiler.assume_constant_result does, but for importing torch._dynamo, a second that few commands need.
_device_obstacle.__dict__["_dynamo_marked_constant"] = True


# What ``auto`` runs on CUDA devices. A Triton op moves in here once its errors and times on a GPU stand in docs/kernels.md.
ON_CUDA = {
    "edge_convolution": "triton",
    "edge_features": "triton",
    "edge_forces": "triton",
    "edge_vectors": "triton",
    "gaussian": "triton",
    "neighbor_list": "triton",
    "motion": "triton",
    "pair_repulsion": "triton",
    "path_linear": "triton",
    "radial_moments": "triton",
    "readout": "triton",
    "reduce_segments": "triton",
    "species_path_linear": "triton",
    "stress": "triton",
    "symmetric_contraction": "triton",
    "tabulated_convolution": "triton",
    "visiting_order": "triton",
}


def preferred(op: str, device: torch.device) -> str:
    """``reference`` or ``triton``: what ``auto`` means for an op on a device."""
    return ON_CUDA[op] if _compiles(device) else "reference"


def _compiles(device: torch.device) -> bool:
    return device.type == "cuda" and HAS_TRITON and _device_obstacle(str(device)) is None


def compile_together(compute: Callable[[], object], device: torch.device) -> None:
    """Compile what ``compute`` launches on a device, before it is called: all kernels side by side, where each would wait for the one
    before. Calls it, and runs none of them. Nothing on devices whose ops are not compiled."""
    if _compiles(device) and "triton" in ON_CUDA.values():
        from mosso.kernels.fused import INTERPRETED, launch

        if not INTERPRETED:
            with launch.compiled_together():
                compute()


@contextmanager
def prefer(implementation: str) -> Iterator[None]:
    """Inside, ``auto`` takes ``implementation`` on CUDA devices: for measuring one against the other."""
    if implementation not in IMPLEMENTATIONS[1:]:
        raise ValueError(f"Unknown implementation {implementation!r}: choose one of {', '.join(IMPLEMENTATIONS[1:])}.")
    before = dict(ON_CUDA)
    ON_CUDA.update(dict.fromkeys(ON_CUDA, implementation))
    try:
        yield
    finally:
        ON_CUDA.update(before)


def choose(implementation: str, op: str, *tensors: Tensor) -> str:
    """``reference`` or ``triton`` for what was asked for; ``tensors`` are the real-valued inputs of the op."""
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"Unknown implementation {implementation!r} of {op}: choose one of {', '.join(IMPLEMENTATIONS)}.")
    auto = implementation == "auto"
    if (preferred(op, tensors[0].device) if auto else implementation) == "reference":
        return "reference"
    reason = triton_obstacle(*tensors)
    if reason is not None and not auto:
        raise ValueError(f"The triton implementation of {op} cannot run here: {reason}. Ask for 'auto' or 'reference'.")
    return "triton" if reason is None else "reference"


class NeighborOps(NamedTuple):
    """The two ops of the device neighbour list; without ``find_candidates`` the host has to search."""

    find_candidates: Callable[..., None] | None
    select_edges: Callable[..., None]


def neighbor_ops(positions_N3: Tensor, implementation: str = "auto") -> NeighborOps:
    """See ``reference.neighbor_list`` and ``fused.neighbor_list``; ``implementation`` is auto, reference or triton."""
    if choose(implementation, "neighbor_list", positions_N3) == "reference":
        return NeighborOps(None, neighbor_list.select_edges)
    from mosso.kernels.fused import neighbor_list as fused

    return NeighborOps(fused.find_candidates, fused.select_edges)


def sum_segments(values: Tensor, counts_B: Tensor, implementation: str = "auto") -> Tensor:
    """(B, ...): see ``reference.sum_segments``; ``implementation`` is auto, reference or triton (not differentiable)."""
    if choose(implementation, "reduce_segments", values) == "reference":
        return reference.sum_segments(values, counts_B)
    from mosso.kernels.fused import segments as fused

    return fused.reduce_segments(values, counts_B, maximum=False)


def max_segments(values: Tensor, counts_B: Tensor, implementation: str = "auto") -> Tensor:
    """(B, ...): see ``reference.max_segments``; ``implementation`` is auto, reference or triton (not differentiable)."""
    if choose(implementation, "reduce_segments", values) == "reference":
        return reference.max_segments(values, counts_B)
    from mosso.kernels.fused import segments as fused

    return fused.reduce_segments(values, counts_B, maximum=True)


def edge_convolution(
    x_NMC: Tensor,
    harmonics_EM: Tensor,
    weights_EPC: Tensor,
    senders_E: Tensor,
    receivers_E: Tensor,
    receiver_offsets: Tensor,
    transpose_E: Tensor,
    sender_offsets: Tensor,
    degrees_in: tuple[int, ...],
    paths: Sequence[CouplingPath],
    implementation: str = "auto",
) -> Tensor:
    """(N, K, C): see ``reference.edge_convolution``; ``implementation`` is auto, reference or triton."""
    arguments = (x_NMC, harmonics_EM, weights_EPC, senders_E, receivers_E, receiver_offsets, transpose_E, sender_offsets)
    if choose(implementation, "edge_convolution", x_NMC, harmonics_EM, weights_EPC) == "reference":
        return reference.edge_convolution(*arguments, degrees_in, paths)
    from mosso.kernels.fused import edge_convolution as fused

    return fused.edge_convolution(*arguments, degrees_in, paths)


def symmetric_contraction(
    a_NMC: Tensor, coefficients_STC: Tensor, groups: reference.SpeciesGroups, table: ContractionTable, implementation: str = "auto"
) -> Tensor:
    """(N, M', C): see ``reference.symmetric_contraction``; ``implementation`` is auto, reference or triton."""
    if choose(implementation, "symmetric_contraction", a_NMC, coefficients_STC) == "reference":
        return reference.symmetric_contraction(a_NMC, coefficients_STC, groups, table)
    from mosso.kernels.fused import symmetric_contraction as fused

    return fused.symmetric_contraction_triton(a_NMC, coefficients_STC, groups.species_N, table, groups.order_N)


def radial_mlp(features_EK: Tensor, weights: Sequence[Tensor], activation_constant: float) -> Tensor:
    """(E, out): see ``reference.radial_mlp``.

    Libraries choose how to multiply by the number of rows, here that of edges there is room for. Where torch is to be deterministic the
    products are those of ``path_linear`` on CUDA, so that the bits of an edge do not depend on that room.
    """
    alike = torch.are_deterministic_algorithms_enabled() and preferred("path_linear", features_EK.device) == "triton"
    return reference.radial_mlp(features_EK, weights, activation_constant, _product_by_rows if alike else torch.matmul)


def _product_by_rows(x_EK: Tensor, weight_KD: Tensor) -> Tensor:
    return path_linear(x_EK.unsqueeze(1), [weight_KD], (0,), ((0,),)).squeeze(1)


def visiting_order(rows_E: Tensor, senders_E: Tensor, receiver_offsets: Tensor, implementation: str = "auto") -> reference.Visits:
    """See ``reference.visiting_order``; ``implementation`` is auto, reference or triton."""
    if choose(implementation, "visiting_order", rows_E.new_empty(0, dtype=torch.float32)) == "reference":
        return reference.visiting_order(rows_E, senders_E, receiver_offsets)
    from mosso.kernels.fused import visiting_order as fused

    return reference.Visits(*fused.visiting_order(rows_E, senders_E, receiver_offsets))


def tabulated_convolution(
    x_NMC: Tensor,
    features_EJ: Tensor,
    rows_E: Tensor,
    table_RPCQ: Tensor,
    senders_E: Tensor,
    receivers_E: Tensor,
    receiver_offsets: Tensor,
    transpose_E: Tensor,
    sender_offsets: Tensor,
    degrees_in: tuple[int, ...],
    paths: Sequence[CouplingPath],
    visits: reference.Visits | None = None,
    coarse_RPCQ: Tensor | None = None,
    implementation: str = "auto",
) -> Tensor:
    """(N, K, C): see ``reference.tabulated_convolution``; ``implementation`` is auto, reference or triton.

    The triton one is differentiable once, and not in the tables.
    """
    arguments = (x_NMC, features_EJ, rows_E, table_RPCQ, senders_E, receivers_E, receiver_offsets, transpose_E, sender_offsets)
    if choose(implementation, "tabulated_convolution", x_NMC, features_EJ) == "reference":
        return reference.tabulated_convolution(*arguments, degrees_in, paths, visits, coarse_RPCQ)
    from mosso.kernels.fused import tabulated_convolution as fused

    return fused.tabulated_convolution(*arguments, degrees_in, paths, visits, coarse_RPCQ)


def radial_moments(
    features_EJ: Tensor,
    rows_E: Tensor,
    table_RQK: Tensor,
    species_N: Tensor,
    num_species: int,
    senders_E: Tensor,
    receivers_E: Tensor,
    receiver_offsets: Tensor,
    implementation: str = "auto",
) -> Tensor:
    """(N, J, Z, K): see ``reference.radial_moments``; ``implementation`` is auto, reference or triton (cubics, differentiable once)."""
    arguments = (features_EJ, rows_E, table_RQK, species_N, num_species, senders_E, receivers_E, receiver_offsets)
    if choose(implementation, "radial_moments", features_EJ, table_RQK) == "reference":
        return reference.radial_moments(*arguments)
    from mosso.kernels.fused import radial_moments as fused

    return fused.radial_moments(*arguments)


def edge_features(
    vectors_E3: Tensor, max_ell: int, r_max: float, num_intervals: int, dtype: torch.dtype, implementation: str = "auto"
) -> tuple[Tensor, Tensor]:
    """(E, J) and (E,): see ``reference.edge_features``; ``implementation`` is auto, reference or triton (differentiable once)."""
    if choose(implementation, "edge_features", vectors_E3) == "reference":
        return reference.edge_features(vectors_E3, max_ell, r_max, num_intervals, dtype)
    from mosso.kernels.fused import edge_features as fused

    return fused.edge_features(vectors_E3, max_ell, r_max, num_intervals, dtype)


def path_linear(
    x_NKC: Tensor,
    weights: Sequence[Tensor],
    degrees: tuple[int, ...],
    starts: tuple[tuple[int, ...], ...],
    matmul: str = "ieee",
    bias_SD: Tensor | None = None,
    species_N: Tensor | None = None,
    implementation: str = "auto",
) -> Tensor:
    """(N, M, D): see ``reference.path_linear``; ``implementation`` is auto, reference or triton."""
    bias = () if bias_SD is None else (bias_SD,)
    if choose(implementation, "path_linear", x_NKC, *weights, *bias) == "reference":
        return reference.path_linear(x_NKC, weights, degrees, starts, matmul, bias_SD, species_N)
    from mosso.kernels.fused import path_linear as fused

    return fused.path_linear(x_NKC, weights, degrees, starts, matmul, bias_SD, species_N)


def species_path_linear(
    x_NKC: Tensor,
    weights: Sequence[Tensor],
    degrees: tuple[int, ...],
    starts: tuple[tuple[int, ...], ...],
    groups: reference.SpeciesGroups,
    matmul: str = "ieee",
    bias_SD: Tensor | None = None,
    implementation: str = "auto",
) -> Tensor:
    """(N, M, D): see ``reference.species_path_linear``; ``implementation`` is auto, reference or triton."""
    bias = () if bias_SD is None else (bias_SD,)
    if choose(implementation, "species_path_linear", x_NKC, *weights, *bias) == "reference":
        return reference.species_path_linear(x_NKC, weights, degrees, starts, groups, matmul, bias_SD)
    from mosso.kernels.fused import path_linear as fused

    return fused.species_path_linear(x_NKC, weights, degrees, starts, groups, matmul, bias_SD)


def readout(h_NMC: Tensor, first_CH: Tensor, second_H: Tensor | None = None, implementation: str = "auto") -> Tensor:
    """(N,): see ``reference.readout``; ``implementation`` is auto, reference or triton (constant weights in float64).

    ``auto`` takes the reference for weights that are trained.
    """
    weights = (first_CH,) if second_H is None else (first_CH, second_H)
    trained = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
    if implementation == "triton" and trained:
        raise ValueError("readout in triton takes its weights as constants: the reference implementation gives their derivatives.")
    if choose("reference" if trained else implementation, "readout", *weights) == "reference":
        return reference.readout(h_NMC, first_CH, second_H)
    from mosso.kernels.fused import readout as fused

    return fused.readout(h_NMC, first_CH, second_H)


def stress(virial_B33: Tensor, cell_B33: Tensor, implementation: str = "auto") -> Tensor:
    """(B, 3, 3): see ``reference.stress``; ``implementation`` is auto, reference or triton (not differentiable)."""
    differentiated = torch.is_grad_enabled() and (virial_B33.requires_grad or cell_B33.requires_grad)
    if implementation == "triton" and differentiated:
        raise ValueError("stress in triton has no derivatives: the reference implementation gives them.")
    if choose("reference" if differentiated else implementation, "stress", virial_B33, cell_B33) == "reference":
        return reference.stress(virial_B33, cell_B33)
    from mosso.kernels.fused import stress as fused

    return fused.stress(virial_B33, cell_B33)


def edge_vectors(
    positions_N3: Tensor,
    cell_B33: Tensor,
    system_N: Tensor,
    senders_E: Tensor,
    receivers_E: Tensor,
    shifts_E3: Tensor,
    receiver_offsets: Tensor,
    cutoff: float,
    implementation: str = "auto",
) -> Tensor:
    """(E, 3): see ``reference.edge_vectors``; ``implementation`` is auto, reference or triton (not differentiable)."""
    arguments = (positions_N3, cell_B33, system_N, senders_E, receivers_E, shifts_E3, receiver_offsets, cutoff)
    differentiated = torch.is_grad_enabled() and (positions_N3.requires_grad or cell_B33.requires_grad)
    if implementation == "auto" and differentiated:
        implementation = "reference"
    if choose(implementation, "edge_vectors", positions_N3, cell_B33) == "reference":
        return reference.edge_vectors(*arguments)
    from mosso.kernels.fused import edge_vectors as fused

    return fused.edge_vectors(*arguments)


def pair_repulsion(
    vectors_E3: Tensor,
    species_N: Tensor,
    pairs_SS3: Tensor,
    coefficients: Sequence[float],
    exponents: Sequence[float],
    power: int,
    senders_E: Tensor,
    receivers_E: Tensor,
    receiver_offsets: Tensor,
    implementation: str = "auto",
) -> Tensor:
    """(N,): see ``reference.pair_repulsion``; ``implementation`` is auto, reference or triton (constant pairs)."""
    arguments = (vectors_E3, species_N, pairs_SS3, coefficients, exponents, power, senders_E, receivers_E, receiver_offsets)
    if choose(implementation, "pair_repulsion", vectors_E3, pairs_SS3) == "reference":
        return reference.pair_repulsion(*arguments)
    from mosso.kernels.fused import repulsion as fused

    return fused.pair_repulsion(*arguments)


def edge_forces(
    gradient_E3: Tensor,
    vectors_E3: Tensor,
    receiver_offsets: Tensor,
    transpose_E: Tensor,
    sender_offsets: Tensor,
    virials: Virials,
    implementation: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """(N, 3) and (N, 3, 3) or None: see ``reference.edge_forces``; ``implementation`` is auto, reference or triton (not differentiable).

    ``auto`` takes the reference for forces that are differentiated again, as in training.
    """
    arguments = (gradient_E3, vectors_E3, receiver_offsets, transpose_E, sender_offsets, virials)
    chosen = choose(implementation, "edge_forces", gradient_E3, vectors_E3)
    if torch.is_grad_enabled() and (gradient_E3.requires_grad or (virials != "none" and vectors_E3.requires_grad)):
        if implementation == "triton":
            raise ValueError("edge_forces in triton has no derivatives: the reference implementation gives them.")
        chosen = "reference"
    if chosen == "reference":
        return reference.edge_forces(*arguments)
    from mosso.kernels.fused import edge_forces as fused

    return fused.edge_forces(*arguments)
