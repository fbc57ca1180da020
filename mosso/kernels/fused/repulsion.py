# mypy: disallow-untyped-defs=False
"""Screened repulsion of nuclei in Triton: one program per receiver, no atomics; see reference/repulsion.py.

Few edges are shorter than the radius of their pair. Where none of a program's are, nothing is computed but lengths.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT
from mosso.kernels.fused.launch import ceil_div, launch, register
from mosso.kernels.fused.overlap import await_inputs
from mosso.kernels.reference.repulsion import pair_repulsion as specification

TERMS = 4  # of the screening function
EDGES = 32  # of a receiver that are under way together
BLOCK = 128  # edges of a program of the gradient


@triton.jit
def _edges(vectors, species, pairs, senders, receivers, edge, live, num_species):
    """Components, length, and the three numbers of the pair; nothing is short where ``live`` is not."""
    x = tl.load(vectors + 3 * edge, mask=live, other=1.0)
    y = tl.load(vectors + 3 * edge + 1, mask=live, other=1.0)
    z = tl.load(vectors + 3 * edge + 2, mask=live, other=1.0)
    sender = tl.load(species + tl.load(senders + edge, mask=live, other=0), mask=live, other=0)
    receiver = tl.load(species + tl.load(receivers + edge, mask=live, other=0), mask=live, other=0)
    pair = pairs + 3 * (sender * num_species + receiver)
    charge = tl.load(pair, mask=live, other=0.0)
    inverse = tl.load(pair + 1, mask=live, other=0.0)
    radius = tl.load(pair + 2, mask=live, other=0.0)
    return x, y, z, tl.sqrt(x * x + y * y + z * z), charge, inverse, radius


@triton.jit
def _screening(
    distance, inverse,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr,
    E0: tl.constexpr, E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
):  # fmt: skip
    """phi and its derivative by the length."""
    x = distance * inverse
    t0, t1, t2, t3 = C0 * tl.exp(-E0 * x), C1 * tl.exp(-E1 * x), C2 * tl.exp(-E2 * x), C3 * tl.exp(-E3 * x)
    return t0 + t1 + t2 + t3, -inverse * (E0 * t0 + E1 * t1 + E2 * t2 + E3 * t3)


@triton.jit
def _envelope(distance, radius, POWER: tl.constexpr):
    """f and its derivative by the length; for lengths below the radius."""
    u = distance / radius
    below = tl.full(u.shape, 1.0, tl.float64)
    for _ in tl.static_range(POWER - 1):
        below *= u
    first = 0.5 * (POWER + 1.0) * (POWER + 2.0)
    second = POWER * (POWER + 2.0)
    third = 0.5 * POWER * (POWER + 1.0)
    value = 1.0 - below * u * (first - u * (second - u * third))
    slope = -below * (POWER * first - u * ((POWER + 1.0) * second - u * (POWER + 2.0) * third)) / radius
    return value, slope


@triton.jit
def _energies(
    vectors, species, pairs, senders, receivers, offsets, out, num_species,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr,
    E0: tl.constexpr, E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    POWER: tl.constexpr, EDGES: tl.constexpr, OVERLAPS: tl.constexpr = False,
):  # fmt: skip
    await_inputs(OVERLAPS)
    node = tl.program_id(0).to(tl.int64)
    end = tl.load(offsets + node + 1)
    total = tl.zeros((EDGES,), tl.float64)
    for first in range(tl.load(offsets + node), end, EDGES):
        edge = first + tl.arange(0, EDGES)
        _, _, _, distance, charge, inverse, radius = _edges(vectors, species, pairs, senders, receivers, edge, edge < end, num_species)
        near = distance < radius
        if tl.max(near.to(tl.int32), axis=0) > 0:
            phi, _ = _screening(distance, inverse, C0, C1, C2, C3, E0, E1, E2, E3)
            f, _ = _envelope(distance, tl.where(near, radius, distance), POWER)
            total += tl.where(near, charge / distance * phi * f, 0.0)
    tl.store(out + node, tl.sum(total, axis=0))


@triton.jit
def _gradients(
    g, vectors, species, pairs, senders, receivers, offsets, out, num_species, num_nodes, num_edges,
    C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, C3: tl.constexpr,
    E0: tl.constexpr, E1: tl.constexpr, E2: tl.constexpr, E3: tl.constexpr,
    POWER: tl.constexpr, BLOCK: tl.constexpr, OVERLAPS: tl.constexpr = False,
):  # fmt: skip
    await_inputs(OVERLAPS)
    edge = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = edge < tl.load(offsets + num_nodes)
    x, y, z, distance, charge, inverse, radius = _edges(vectors, species, pairs, senders, receivers, edge, live, num_species)
    near = distance < radius
    along = tl.zeros((BLOCK,), tl.float64)
    if tl.max(near.to(tl.int32), axis=0) > 0:
        phi, phi_slope = _screening(distance, inverse, C0, C1, C2, C3, E0, E1, E2, E3)
        f, f_slope = _envelope(distance, tl.where(near, radius, distance), POWER)
        slope = charge / distance * (phi_slope * f + phi * f_slope - phi * f / distance)
        weight = tl.load(g + tl.load(receivers + edge, mask=near, other=0), mask=near, other=0.0)
        along = tl.where(near, weight * slope / distance, 0.0)
    inside = edge < num_edges
    tl.store(out + 3 * edge, along * x, mask=inside)
    tl.store(out + 3 * edge + 1, along * y, mask=inside)
    tl.store(out + 3 * edge + 2, along * z, mask=inside)


def _constants(coefficients: Sequence[float], exponents: Sequence[float], power: int) -> dict[str, Any]:
    assert len(coefficients) == len(exponents) == TERMS
    terms = {f"{name}{k}": value for name, values in (("C", coefficients), ("E", exponents)) for k, value in enumerate(values)}
    return {**terms, "POWER": power}


def _fake(vectors, species, pairs, senders, receivers, offsets, coefficients, exponents, power, fingerprint):
    return vectors.new_empty(offsets.shape[0] - 1)


@register("pair_repulsion", _fake)
def _forward(
    vectors: Tensor, species: Tensor, pairs: Tensor, senders: Tensor, receivers: Tensor, offsets: Tensor,
    coefficients: list[float], exponents: list[float], power: int, fingerprint: str,
) -> Tensor:  # fmt: skip
    """(N,) energies."""
    num_nodes = offsets.shape[0] - 1
    out = vectors.new_empty(num_nodes)
    if num_nodes:
        tensors = (t.contiguous() for t in (vectors, species, pairs, senders, receivers, offsets))
        constants = _constants(coefficients, exponents, power)
        launch(_energies, (num_nodes,), *tensors, out, pairs.shape[0], **constants, EDGES=EDGES, num_warps=1)
    return out


def _fake_backward(g, vectors, species, pairs, senders, receivers, offsets, coefficients, exponents, power, fingerprint):
    return vectors.new_empty(vectors.shape)


@register("pair_repulsion_backward", _fake_backward)
def _backward(
    g: Tensor, vectors: Tensor, species: Tensor, pairs: Tensor, senders: Tensor, receivers: Tensor, offsets: Tensor,
    coefficients: list[float], exponents: list[float], power: int, fingerprint: str,
) -> Tensor:  # fmt: skip
    """(E, 3) gradient of <g, energies> with respect to the vectors; zero for padding."""
    num_edges, num_nodes = vectors.shape[0], offsets.shape[0] - 1
    out = vectors.new_empty(vectors.shape)
    if num_edges:
        tensors = (t.contiguous() for t in (g, vectors, species, pairs, senders, receivers, offsets))
        sizes = (pairs.shape[0], num_nodes, num_edges)
        launch(_gradients, (ceil_div(num_edges, BLOCK),), *tensors, out, *sizes, **_constants(coefficients, exponents, power), BLOCK=BLOCK)
    return out


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, coefficients, exponents, power, _ = inputs
    ctx.save_for_backward(*tensors)
    ctx.screening = (coefficients, exponents, power)


def _first_derivative(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    return _backward(g, *ctx.saved_tensors, *ctx.screening, FINGERPRINT), *(None,) * 9


def _second_derivative(ctx: Any, u: Tensor) -> tuple[Any, ...]:
    """Gradient of <u, d vectors> in g and the vectors: by the reference, because only training and Hessians come here."""
    g, vectors, species, pairs, *edges = ctx.saved_tensors
    with torch.enable_grad():
        g, vectors = g.detach().requires_grad_(), vectors.detach().requires_grad_()
        energies = specification(vectors, species, pairs, *ctx.screening, *edges)
        (first,) = torch.autograd.grad(energies, vectors, g, create_graph=True)
        along = torch.autograd.grad(first, (g, vectors), u)
    return *along, *(None,) * 9


_forward.register_autograd(_first_derivative, setup_context=_keep)
_backward.register_autograd(_second_derivative, setup_context=_keep)


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
) -> Tensor:
    """(N,) float64 as ``reference.pair_repulsion``; differentiable in the vectors, bitwise the same in every run."""
    tensors = (vectors_E3, species_N, pairs_SS3, senders_E, receivers_E, receiver_offsets)
    result: Tensor = _forward(*tensors, list(coefficients), list(exponents), power, FINGERPRINT)
    return result
