# mypy: disallow-untyped-defs=False
"""Moments of tabulated radial functions and harmonics in Triton: forward and first derivative, deterministic, no atomics.

S[n, j, z, k] = sum over the edges e into n whose sender has species z of Y_j(e) phi_k(e) is, for one receiver and species,
the product of a (J, edges) and an (edges, K) matrix. Neither is in memory: a program takes a tile of edges at a time, makes
both from the features and rows of the table, and multiplies them into sums that stay in registers.

groups: where there are several species, the edges of every receiver are listed by the species of their sender.
forward: one program per group, that is per receiver and species.
backward: the same programs, with g[n, :, z, :] in registers. An edge is in one group, so one program writes its gradient.

N atoms, E edges, J harmonics (column 0 of the features, their t, stands where Y_0 = 1 would), K radial functions, Z species.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT, refuse_second_derivative
from mosso.kernels.fused.launch import launch, multiplies_in_double, register
from mosso.kernels.fused.overlap import await_inputs


class Config(NamedTuple):
    """How a kernel is cut.

    Attributes:
        tile: edges of one matrix product, at least 16.
        num_warps: warps of one program.
        num_stages: tiles whose loads are under way together.
        in_double: products of float32 are made in float64.
    """

    tile: int
    num_warps: int
    num_stages: int
    in_double: bool = False


# Groups of edges that give every multiprocessor of an H200 work enough; fewer of them take more warps each.
MANY_GROUPS = 4 * 132


def config(direction: str, num_groups: int, itemsize: int, double: bool) -> Config:
    """By times on an H200 for J = 16 and K = 64; ``double``: whether tensor cores multiply float64."""
    if itemsize == 8:
        return Config(16, 8, 1)
    if direction == "forward" or not double:
        return Config(16, 2, 1)
    return Config(16, 1, 2, in_double=True) if num_groups >= MANY_GROUPS else Config(32, 4, 2, in_double=True)


@triton.jit
def _list_by_species(
    species,
    senders,
    receiver_offsets,
    order,
    group_offsets,
    num_nodes,
    NUM_SPECIES: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """The edges into one receiver, by the species of their sender and else in their order."""
    await_inputs(OVERLAPS)
    node = tl.program_id(0).to(tl.int64)
    # Without atoms there is one program, which writes the end of no groups.
    start = tl.load(receiver_offsets + node, mask=node < num_nodes, other=0)
    end = tl.load(receiver_offsets + node + 1, mask=node < num_nodes, other=0)
    placed = start
    for z in range(NUM_SPECIES):
        tl.store(group_offsets + node * NUM_SPECIES + z, placed, mask=node < num_nodes)
        for first in range(start, end, BLOCK):
            edge = first + tl.arange(0, BLOCK)
            sender = tl.load(senders + edge, mask=edge < end, other=0)
            chosen = tl.load(species + sender, mask=edge < end, other=-1) == z
            count = chosen.to(tl.int32)
            tl.store(order + placed + tl.cumsum(count, axis=0) - 1, edge.to(tl.int32), mask=chosen)
            placed += tl.sum(count, axis=0)
    tl.store(group_offsets + num_nodes * NUM_SPECIES, end, mask=node + 1 >= num_nodes)


@triton.jit
def _edges(order, slot, end, NUM_SPECIES: tl.constexpr):
    """The edges at these places of a group, and which of them there are."""
    live = slot < end
    if NUM_SPECIES > 1:
        return tl.load(order + slot, mask=live, other=0).to(tl.int64), live
    else:
        return slot, live


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
    order,
    group_offsets,
    out,
    J: tl.constexpr,
    K: tl.constexpr,
    NUM_SPECIES: tl.constexpr,
    PAD_J: tl.constexpr,
    PAD_K: tl.constexpr,
    TILE: tl.constexpr,
    IN_DOUBLE: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """out[n, :, z, :] of one receiver and species."""
    await_inputs(OVERLAPS)
    group = tl.program_id(0).to(tl.int64)
    node = group // NUM_SPECIES
    z = group % NUM_SPECIES
    start = tl.load(group_offsets + group)
    end = tl.load(group_offsets + group + 1)
    PRODUCT: tl.constexpr = tl.float64 if IN_DOUBLE else out.dtype.element_ty
    total = tl.zeros((PAD_J, PAD_K), PRODUCT)
    for first in range(start, end, TILE):
        edge, live = _edges(order, first + tl.arange(0, TILE), end, NUM_SPECIES)
        phi, _ = _radial(features, rows, table, edge, live, J, K, PAD_K)
        harmonics = _harmonics(features, edge, live, J, PAD_J)
        total = tl.dot(tl.trans(harmonics).to(PRODUCT), phi.to(PRODUCT), total, input_precision="ieee", out_dtype=PRODUCT)
    j = tl.arange(0, PAD_J)[:, None]
    k = tl.arange(0, PAD_K)[None, :]
    tl.store(out + ((node * J + j) * NUM_SPECIES + z) * K + k, total, mask=(j < J) & (k < K))


@triton.jit
def _moments_backward(
    g,
    features,
    rows,
    table,
    order,
    group_offsets,
    grad_features,
    num_groups,
    num_edges,
    J: tl.constexpr,
    K: tl.constexpr,
    NUM_SPECIES: tl.constexpr,
    PAD_J: tl.constexpr,
    PAD_K: tl.constexpr,
    TILE: tl.constexpr,
    IN_DOUBLE: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """Gradients of the edges into one receiver from one species, and zeros for a share of the padding edges."""
    await_inputs(OVERLAPS)
    group = tl.program_id(0).to(tl.int64)
    node = group // NUM_SPECIES
    z = group % NUM_SPECIES
    j = tl.arange(0, PAD_J)
    k = tl.arange(0, PAD_K)[None, :]
    # Without atoms there is one program, for the padding alone.
    start = tl.load(group_offsets + group, mask=group < num_groups, other=0)
    end = tl.load(group_offsets + group + 1, mask=group < num_groups, other=0)
    PRODUCT: tl.constexpr = tl.float64 if IN_DOUBLE else g.dtype.element_ty
    at = g + ((node * J + j[:, None]) * NUM_SPECIES + z) * K + k
    g_JK = tl.load(at, mask=(j[:, None] < J) & (k < K) & (start < end), other=0.0).to(PRODUCT)
    column = j[None, :]
    for first in range(start, end, TILE):
        edge, live = _edges(order, first + tl.arange(0, TILE), end, NUM_SPECIES)
        phi, slope = _radial(features, rows, table, edge, live, J, K, PAD_K)
        harmonics = _harmonics(features, edge, live, J, PAD_J)
        if IN_DOUBLE:
            # Both products have the same second operand, which stays where tensor cores want it.
            of_harmonics = tl.dot(phi.to(PRODUCT), tl.trans(g_JK), input_precision="ieee", out_dtype=PRODUCT)
            rates = tl.dot(slope.to(PRODUCT), tl.trans(g_JK), input_precision="ieee", out_dtype=PRODUCT)
            of_position = tl.sum(rates * harmonics, axis=1)
        else:
            of_phi = tl.dot(harmonics, g_JK, input_precision="ieee", out_dtype=PRODUCT)
            # g phi^T and then its transpose takes fewer registers than phi g^T.
            of_harmonics = tl.trans(tl.dot(g_JK, tl.trans(phi), input_precision="ieee", out_dtype=PRODUCT))
            of_position = tl.sum(of_phi * slope, axis=1)
        grad = tl.where(column == 0, of_position[:, None], of_harmonics)
        tl.store(grad_features + edge[:, None] * J + column, grad.to(grad_features.dtype.element_ty), mask=live[:, None] & (column < J))
    # How many padding edges there are is known on the device only.
    for first in range(tl.load(group_offsets + num_groups) + group * TILE, num_edges, tl.num_programs(0) * TILE):
        edge = first + tl.arange(0, TILE)[:, None]
        zero = tl.zeros((TILE, PAD_J), grad_features.dtype.element_ty)
        tl.store(grad_features + edge * J + column, zero, mask=(edge < num_edges) & (column < J))


def _constants(direction: str, num_groups: int, features: Tensor, table: Tensor, num_species: int) -> dict[str, Any]:
    """What kernels are compiled for; products want at least 16 of everything."""
    num_features, num_radial = int(features.shape[1]), int(table.shape[2])
    cut = config(direction, num_groups, features.element_size(), multiplies_in_double(features.device))
    return {
        "J": num_features,
        "K": num_radial,
        "NUM_SPECIES": num_species,
        "PAD_J": max(16, triton.next_power_of_2(num_features)),
        "PAD_K": max(16, triton.next_power_of_2(num_radial)),
        "TILE": cut.tile,
        "IN_DOUBLE": cut.in_double,
        "num_warps": cut.num_warps,
        "num_stages": cut.num_stages,
    }


def _fake_groups(species, num_species, senders, receiver_offsets, fingerprint):
    num_groups = species.shape[0] * num_species
    return senders.new_empty(senders.shape, dtype=torch.int32), receiver_offsets.new_empty(num_groups + 1)


@register("radial_moments_groups", _fake_groups)
def _groups(species: Tensor, num_species: int, senders: Tensor, receiver_offsets: Tensor, fingerprint: str) -> tuple[Tensor, Tensor]:
    """(E,) int32 edges by receiver and species of the sender, and (N Z + 1,) int64 where each of these groups begins."""
    num_nodes = species.shape[0]
    assert receiver_offsets.shape == (num_nodes + 1,)
    order = senders.new_empty(senders.shape, dtype=torch.int32)
    group_offsets = receiver_offsets.new_empty(num_nodes * num_species + 1)
    tensors = (t.contiguous() for t in (species, senders, receiver_offsets))
    constants = {"NUM_SPECIES": num_species, "BLOCK": 128, "num_warps": 4}
    launch(_list_by_species, (max(num_nodes, 1),), *tensors, order, group_offsets, num_nodes, **constants)
    return order, group_offsets


def _fake_forward(features, rows, table, order, group_offsets, num_species, fingerprint):
    num_nodes = (group_offsets.shape[0] - 1) // num_species
    return features.new_empty(num_nodes, features.shape[1], num_species, table.shape[2])


@register("radial_moments", _fake_forward)
def _forward(
    features: Tensor, rows: Tensor, table: Tensor, order: Tensor, group_offsets: Tensor, num_species: int, fingerprint: str
) -> Tensor:
    """(N, J, Z, K) moments; ``order`` and ``group_offsets`` as ``_groups`` makes them, of one species any and those of receivers."""
    assert table.shape[1] == 4, "the table holds cubics"
    num_groups = group_offsets.shape[0] - 1
    out = features.new_empty(num_groups // num_species, features.shape[1], num_species, table.shape[2])
    tensors = (t.contiguous() for t in (features, rows, table, order, group_offsets))
    launch(_moments, (num_groups,), *tensors, out, **_constants("forward", num_groups, features, table, num_species))
    return out


def _fake_backward(g, features, rows, table, order, group_offsets, num_species, fingerprint):
    return features.new_empty(features.shape)


@register("radial_moments_backward", _fake_backward, opaque_before_2_12=True)
def _backward(
    g: Tensor, features: Tensor, rows: Tensor, table: Tensor, order: Tensor, group_offsets: Tensor, num_species: int, fingerprint: str
) -> Tensor:
    """(E, J) gradient of <g, moments> with respect to the features."""
    num_groups, num_edges = group_offsets.shape[0] - 1, features.shape[0]
    out = features.new_empty(features.shape)
    tensors = (t.contiguous() for t in (g, features, rows, table, order, group_offsets))
    constants = _constants("backward", num_groups, features, table, num_species)
    launch(_moments_backward, (max(num_groups, 1),), *tensors, out, num_groups, num_edges, **constants)
    return out


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.num_species, _ = inputs
    ctx.save_for_backward(*tensors)


def _first_derivative(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return _backward(g, *ctx.saved_tensors, ctx.num_species, FINGERPRINT), *(None,) * 6


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
    order_E, group_offsets = senders_E, receiver_offsets
    if num_species > 1:
        order_E, group_offsets = _groups(species_N, num_species, senders_E, receiver_offsets, FINGERPRINT)
    result: Tensor = _forward(features_EJ, rows_E, table_RQK, order_E, group_offsets, num_species, FINGERPRINT)
    return result
