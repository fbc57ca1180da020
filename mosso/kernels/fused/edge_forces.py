# mypy: disallow-untyped-defs=False
"""Forces and virials of atoms from the gradients of edge vectors, in Triton: one program per atom, no atomics.

A program runs over the incoming and the outgoing edges of its atom side by side, so that the loads of both are under way
together; each lane keeps sums of its own, which are added up in a fixed order at the end.
"""

import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT
from mosso.kernels.fused.launch import launch, register
from mosso.kernels.fused.overlap import await_inputs
from mosso.kernels.reference import Virials

BLOCK = 128  # edges of either direction that are under way together


@triton.jit
def _component(vectors, edge, live, axis: tl.constexpr):
    """(BLOCK, 1) one component of the vectors of these edges."""
    return tl.load(vectors + edge * 3 + axis, mask=live, other=0.0)


@triton.jit
def _assemble(
    gradient,
    vectors,
    receiver_offsets,
    transpose,
    sender_offsets,
    forces,
    virials,
    VIRIALS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """forces[n] and virials[n], if there are any, of one atom; columns are the components of the gradient."""
    await_inputs(OVERLAPS)
    node = tl.program_id(0).to(tl.int64)
    start_in = tl.load(receiver_offsets + node)
    end_in = tl.load(receiver_offsets + node + 1)
    start_out = tl.load(sender_offsets + node)
    end_out = tl.load(sender_offsets + node + 1)
    lane = tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, 4)[None, :]
    force = tl.zeros((BLOCK, 4), forces.dtype.element_ty)
    virial_0 = force
    virial_1 = force
    virial_2 = force
    for first in range(0, tl.maximum(end_in - start_in, end_out - start_out), BLOCK):
        slot = start_out + first + lane
        live_out = slot < end_out
        edge_out = tl.load(transpose + slot, mask=live_out, other=0)
        edge_in = start_in + first + lane
        live_in = edge_in < end_in
        g_in = tl.load(gradient + edge_in * 3 + column, mask=live_in & (column < 3), other=0.0)
        g_out = tl.load(gradient + edge_out * 3 + column, mask=live_out & (column < 3), other=0.0)
        force += g_out - g_in
        if VIRIALS != "none":
            virial_0 += _component(vectors, edge_in, live_in, 0) * g_in
            virial_1 += _component(vectors, edge_in, live_in, 1) * g_in
            virial_2 += _component(vectors, edge_in, live_in, 2) * g_in
        if VIRIALS == "shared":
            virial_0 += _component(vectors, edge_out, live_out, 0) * g_out
            virial_1 += _component(vectors, edge_out, live_out, 1) * g_out
            virial_2 += _component(vectors, edge_out, live_out, 2) * g_out
    column = tl.arange(0, 4)
    tl.store(forces + node * 3 + column, tl.sum(force, axis=0), mask=column < 3)
    if VIRIALS != "none":
        share = -0.5 if VIRIALS == "shared" else -1.0
        at = virials + node * 9 + column
        tl.store(at, share * tl.sum(virial_0, axis=0), mask=column < 3)
        tl.store(at + 3, share * tl.sum(virial_1, axis=0), mask=column < 3)
        tl.store(at + 6, share * tl.sum(virial_2, axis=0), mask=column < 3)


def _empty(gradient: Tensor, num_nodes: int, virials: str) -> tuple[Tensor, Tensor]:
    return gradient.new_empty(num_nodes, 3), gradient.new_empty((0,) if virials == "none" else (num_nodes, 3, 3))


def _fake(gradient, vectors, receiver_offsets, transpose, sender_offsets, virials, fingerprint):
    return _empty(gradient, receiver_offsets.shape[0] - 1, virials)


@register("edge_forces", _fake)
def _edge_forces(
    gradient: Tensor,
    vectors: Tensor,
    receiver_offsets: Tensor,
    transpose: Tensor,
    sender_offsets: Tensor,
    virials: str,
    fingerprint: str,
) -> tuple[Tensor, Tensor]:
    """(N, 3) forces and (N, 3, 3) virials, an empty tensor where they are not needed."""
    assert receiver_offsets.shape == sender_offsets.shape
    assert gradient.shape == vectors.shape
    num_nodes = receiver_offsets.shape[0] - 1
    out = _empty(gradient, num_nodes, virials)
    tensors = (gradient, vectors, receiver_offsets, transpose, sender_offsets)
    constants = {"VIRIALS": virials, "BLOCK": BLOCK, "num_warps": BLOCK // 32}
    launch(_assemble, (num_nodes,), *(t.contiguous() for t in tensors), *out, **constants)
    return out


def edge_forces(
    gradient_E3: Tensor, vectors_E3: Tensor, receiver_offsets: Tensor, transpose_E: Tensor, sender_offsets: Tensor, virials: Virials
) -> tuple[Tensor, Tensor | None]:
    """(N, 3) and (N, 3, 3) or None, as ``reference.edge_forces``; bitwise the same in every run, not differentiable."""
    arguments = (gradient_E3, vectors_E3, receiver_offsets, transpose_E, sender_offsets)
    forces_N3, virials_N33 = _edge_forces(*arguments, virials, FINGERPRINT)
    return forces_N3, None if virials == "none" else virials_N33
