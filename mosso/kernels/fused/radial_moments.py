# mypy: disallow-untyped-defs=False
"""Moments of tabulated radial functions and harmonics in Triton: forward and first derivative, deterministic, no atomics.

S[n, j, z, k] = sum over the edges e into n whose sender has species z of Y_j(e) phi_k(e) is, for one receiver and species,
the product of a (J, edges) and an (edges, K) matrix. Neither is in memory: a program takes a tile of edges at a time, makes
both from the features and rows of the table, and multiplies them into sums that stay in registers.

forward: one program per receiver and species; edges from senders of other species are masked, their rows are not read.
backward: the same programs, with g[n, :, z, :] in registers. An edge has one species, so one program writes its gradient.

N atoms, E edges, J harmonics (column 0 of the features, their t, stands where Y_0 = 1 would), K radial functions, Z species.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT, refuse_second_derivative
from mosso.kernels.fused.launch import launch, register


class Config(NamedTuple):
    """How a kernel is cut.

    Attributes:
        tile: edges of one matrix product, at least 16.
        num_warps: warps of one program.
        num_stages: tiles whose loads are under way together.
        precision: of the products of float32: ``ieee`` (multiply-adds) or ``tf32x3`` (split products on tensor cores).
    """

    tile: int
    num_warps: int
    num_stages: int
    precision: str


def config(direction: str, itemsize: int) -> Config:
    """What spills nothing on sm_90 for J = 16 and K = 64."""
    return Config(16, 8 if itemsize == 8 else 2, 1, "ieee")


@triton.jit
def _of_species(edge, end, senders, species, z, NUM_SPECIES: tl.constexpr):
    """Which edges of the tile are those of the receiver and of species z."""
    live = edge < end
    if NUM_SPECIES > 1:
        sender = tl.load(senders + edge, mask=live, other=0)
        live = live & (tl.load(species + sender, mask=live, other=-1) == z)
    return live


@triton.jit
def _harmonics(features, edge, live, J: tl.constexpr, PAD_J: tl.constexpr):
    """(TILE, PAD_J) harmonics: the features with one in column 0."""
    j = tl.arange(0, PAD_J)[None, :]
    inside = live[:, None] & (j > 0) & (j < J)
    return tl.load(features + edge[:, None] * J + j, mask=inside, other=tl.where(j == 0, 1.0, 0.0).to(features.dtype.element_ty))


@triton.jit
def _radial(features, rows, table, edge, live, J: tl.constexpr, K: tl.constexpr, PAD_K: tl.constexpr):
    """(TILE, PAD_K) values and slopes of the cubics, both by Horner's rule; zeros for edges that are not live."""
    position = tl.load(features + edge * J, mask=live, other=0.0)[:, None]
    row = tl.load(rows + edge, mask=live, other=0).to(tl.int64)
    k = tl.arange(0, PAD_K)[None, :]
    at = table + row[:, None] * (4 * K) + k
    inside = live[:, None] & (k < K)
    c0 = tl.load(at, mask=inside, other=0.0)
    c1 = tl.load(at + K, mask=inside, other=0.0)
    c2 = tl.load(at + 2 * K, mask=inside, other=0.0)
    c3 = tl.load(at + 3 * K, mask=inside, other=0.0)
    quadratic = c3 * position + c2
    linear = quadratic * position + c1
    slope = (c3 * position + quadratic) * position + linear
    return linear * position + c0, slope


@triton.jit
def _moments(
    features,
    rows,
    table,
    species,
    senders,
    receiver_offsets,
    out,
    J: tl.constexpr,
    K: tl.constexpr,
    NUM_SPECIES: tl.constexpr,
    PAD_J: tl.constexpr,
    PAD_K: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out[n, :, z, :] of one receiver and species."""
    node = tl.program_id(0).to(tl.int64)
    z = tl.program_id(1)
    start = tl.load(receiver_offsets + node)
    end = tl.load(receiver_offsets + node + 1)
    total = tl.zeros((PAD_J, PAD_K), out.dtype.element_ty)
    for first in range(start, end, TILE):
        edge = first + tl.arange(0, TILE)
        live = _of_species(edge, end, senders, species, z, NUM_SPECIES)
        phi, _ = _radial(features, rows, table, edge, live, J, K, PAD_K)
        harmonics = _harmonics(features, edge, live, J, PAD_J)
        total = tl.dot(tl.trans(harmonics), phi, total, input_precision=PRECISION, out_dtype=out.dtype.element_ty)
    j = tl.arange(0, PAD_J)[:, None]
    k = tl.arange(0, PAD_K)[None, :]
    tl.store(out + ((node * J + j) * NUM_SPECIES + z) * K + k, total, mask=(j < J) & (k < K))


@triton.jit
def _moments_backward(
    g,
    features,
    rows,
    table,
    species,
    senders,
    receiver_offsets,
    grad_features,
    num_nodes,
    num_edges,
    J: tl.constexpr,
    K: tl.constexpr,
    NUM_SPECIES: tl.constexpr,
    PAD_J: tl.constexpr,
    PAD_K: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the edges into one receiver from one species, and zeros for a share of the padding edges."""
    node = tl.program_id(0).to(tl.int64)
    z = tl.program_id(1)
    j = tl.arange(0, PAD_J)
    k = tl.arange(0, PAD_K)[None, :]
    # Without atoms there is one program, for the padding alone.
    start = tl.load(receiver_offsets + node, mask=node < num_nodes, other=0)
    end = tl.load(receiver_offsets + node + 1, mask=node < num_nodes, other=0)
    at = g + ((node * J + j[:, None]) * NUM_SPECIES + z) * K + k
    g_JK = tl.load(at, mask=(j[:, None] < J) & (k < K) & (start < end), other=0.0)
    column = j[None, :]
    for first in range(start, end, TILE):
        edge = first + tl.arange(0, TILE)
        live = _of_species(edge, end, senders, species, z, NUM_SPECIES)
        phi, slope = _radial(features, rows, table, edge, live, J, K, PAD_K)
        harmonics = _harmonics(features, edge, live, J, PAD_J)
        of_phi = tl.dot(harmonics, g_JK, input_precision=PRECISION, out_dtype=g.dtype.element_ty)
        # g phi^T and then its transpose takes fewer registers than phi g^T.
        of_harmonics = tl.trans(tl.dot(g_JK, tl.trans(phi), input_precision=PRECISION, out_dtype=g.dtype.element_ty))
        of_position = tl.sum(of_phi * slope, axis=1)
        grad = tl.where(column == 0, of_position[:, None], of_harmonics)
        tl.store(grad_features + edge[:, None] * J + column, grad, mask=live[:, None] & (column < J))
    # How many padding edges there are is known on the device only.
    share = (node * NUM_SPECIES + z) * TILE
    for first in range(tl.load(receiver_offsets + num_nodes) + share, num_edges, tl.num_programs(0) * NUM_SPECIES * TILE):
        edge = first + tl.arange(0, TILE)[:, None]
        zero = tl.zeros((TILE, PAD_J), grad_features.dtype.element_ty)
        tl.store(grad_features + edge * J + column, zero, mask=(edge < num_edges) & (column < J))


def _constants(direction: str, features: Tensor, table: Tensor, num_species: int) -> dict[str, Any]:
    """What kernels are compiled for; products want at least 16 of everything."""
    num_features, num_radial = int(features.shape[1]), int(table.shape[2])
    cut = config(direction, features.element_size())
    return {
        "J": num_features,
        "K": num_radial,
        "NUM_SPECIES": num_species,
        "PAD_J": max(16, triton.next_power_of_2(num_features)),
        "PAD_K": max(16, triton.next_power_of_2(num_radial)),
        "TILE": cut.tile,
        "PRECISION": cut.precision,
        "num_warps": cut.num_warps,
        "num_stages": cut.num_stages,
    }


def _fake_forward(features, rows, table, species, num_species, senders, receiver_offsets, fingerprint):
    return features.new_empty(species.shape[0], features.shape[1], num_species, table.shape[2])


@register("radial_moments", _fake_forward)
def _forward(
    features: Tensor,
    rows: Tensor,
    table: Tensor,
    species: Tensor,
    num_species: int,
    senders: Tensor,
    receiver_offsets: Tensor,
    fingerprint: str,
) -> Tensor:
    """(N, J, Z, K) moments."""
    num_nodes = species.shape[0]
    assert table.shape[1] == 4, "the table holds cubics"
    assert receiver_offsets.shape == (num_nodes + 1,)
    out = features.new_empty(num_nodes, features.shape[1], num_species, table.shape[2])
    tensors = (features, rows, table, species, senders, receiver_offsets)
    constants = _constants("forward", features, table, num_species)
    launch(_moments, (num_nodes, num_species), *(t.contiguous() for t in tensors), out, **constants)
    return out


def _fake_backward(g, features, rows, table, species, num_species, senders, receiver_offsets, fingerprint):
    return features.new_empty(features.shape)


@register("radial_moments_backward", _fake_backward)
def _backward(
    g: Tensor,
    features: Tensor,
    rows: Tensor,
    table: Tensor,
    species: Tensor,
    num_species: int,
    senders: Tensor,
    receiver_offsets: Tensor,
    fingerprint: str,
) -> Tensor:
    """(E, J) gradient of <g, moments> with respect to the features."""
    num_nodes, num_edges = species.shape[0], features.shape[0]
    out = features.new_empty(features.shape)
    tensors = (g, features, rows, table, species, senders, receiver_offsets)
    constants = _constants("backward", features, table, num_species)
    grid = (max(num_nodes, 1), num_species)
    launch(_moments_backward, grid, *(t.contiguous() for t in tensors), out, num_nodes, num_edges, **constants)
    return out


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rows, table, species, ctx.num_species, senders, receiver_offsets, _ = inputs
    ctx.save_for_backward(features, rows, table, species, senders, receiver_offsets)


def _first_derivative(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    *tensors, senders, receiver_offsets = ctx.saved_tensors
    return _backward(g, *tensors, ctx.num_species, senders, receiver_offsets, FINGERPRINT), *(None,) * 7


_forward.register_autograd(_first_derivative, setup_context=_keep_forward)
refuse_second_derivative(_backward, "radial_moments")


def radial_moments(
    features_EJ: Tensor,
    rows_E: Tensor,
    table_RQK: Tensor,
    species_N: Tensor,
    num_species: int,
    senders_E: Tensor,
    receivers_E: Tensor,
    receiver_offsets: Tensor,
) -> Tensor:
    """(N, J, Z, K), as ``reference.radial_moments`` with Q = 4; sums in the dtype of its inputs, bitwise the same in every run.

    Differentiable once, in the features; the table gets no gradient.
    """
    result: Tensor = _forward(features_EJ, rows_E, table_RQK, species_N, num_species, senders_E, receiver_offsets, FINGERPRINT)
    return result
