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

from mosso.kernels import reference, reference_neighbor_list, reference_noise
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


@torch.compiler.assume_constant_result
def _device_obstacle(device: str) -> str | None:
    if not device.startswith("cuda"):
        from mosso.kernels import fused

        return None if fused.INTERPRETED else f"it runs on CUDA devices, and its inputs are on {device}"
    if torch.version.cuda and torch.cuda.get_device_capability(device) < (7, 0):
        return f"it needs compute capability 7.0, and {torch.cuda.get_device_name(device)} is older"
    return None


# What ``auto`` runs on CUDA devices. A Triton op moves in here once its errors and times on a GPU stand in docs/kernels.md.
# Of the neighbour list the search has no other form that a CUDA graph can hold.
ON_CUDA = {"edge_convolution": "reference", "symmetric_contraction": "reference", "neighbor_list": "triton", "gaussian": "reference"}


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
    wanted = implementation
    if implementation == "auto":
        wanted = ON_CUDA[op] if tensors[0].is_cuda else "reference"
    if wanted == "reference":
        return "reference"
    reason = triton_obstacle(*tensors)
    if reason is None:
        return "triton"
    if implementation == "auto":
        return "reference"
    raise ValueError(f"The triton implementation of {op} cannot run here: {reason}. Ask for 'auto' or 'reference'.")


class NeighborOps(NamedTuple):
    """The two ops of the device neighbour list; without ``find_candidates`` the host has to search."""

    find_candidates: Callable[..., None] | None
    select_edges: Callable[..., None]


def neighbor_ops(positions_N3: Tensor, implementation: str = "auto") -> NeighborOps:
    """See ``reference_neighbor_list`` and ``fused.neighbor_list``; ``implementation`` is auto, reference or triton."""
    if choose(implementation, "neighbor_list", positions_N3) == "reference":
        return NeighborOps(None, reference_neighbor_list.select_edges)
    from mosso.kernels.fused import neighbor_list as fused

    return NeighborOps(fused.find_candidates, fused.select_edges)


def gaussian(seeds_N: Tensor, index_N: Tensor, step: Tensor, stream: int, implementation: str = "auto") -> Tensor:
    """(N, 3) float64: see ``reference_noise.gaussian``; ``implementation`` is auto, reference or triton."""
    if choose(implementation, "gaussian", step.new_empty(0, dtype=torch.float64)) == "reference":
        return reference_noise.gaussian(seeds_N, index_N, step, stream)
    from mosso.kernels.fused import noise as fused

    return fused.gaussian(seeds_N, index_N, step, stream)


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
