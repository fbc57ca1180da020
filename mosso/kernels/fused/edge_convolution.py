# mypy: disallow-untyped-defs=False
"""The edge convolution in Triton: forward, first and second derivatives, deterministic, no atomics.

The form F(g, x, Y, w) = sum over edges of g_k w_p C_ijk x_i Y_j is linear in each of its four arguments. The forward
op is dF/dg, the backward op is (dF/dx, dF/dY, dF/dw), and every further derivative is a sum of the same two ops with
arguments exchanged, so that they can be differentiated as often as wanted.

forward: one program per receiver and block of channels runs over the incoming edges; one write per output.
backward: the same programs give dw, dY (per block of channels) and dx (per edge); a second kernel sums dx over the
outgoing edges of each sender in the order of the transpose, a third sums dY over blocks.

N atoms, E edges, P paths, C channels, M components of x, J of the harmonics, K of the output (all paths together).
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from mosso.kernels.fused import INTERPRETED
from mosso.kernels.fused import edge_convolution_source as generated
from mosso.kernels.fused.edge_convolution_source import PathTable
from mosso.kernels.fused.edge_sums import over_senders, sum_parts, zero_padding
from mosso.kernels.fused.launch import Config, ceil_div, launch, register
from mosso.math.coupling import CouplingPath


def config(direction: str, channels: int, num_harmonics: int, itemsize: int) -> Config:
    """One channel per thread: what spills nothing on sm_90 for degrees (0, 1) and max_ell 3."""
    max_sums = generated.MAX_HOISTED[itemsize]
    if direction == "forward":
        block = min(128, max(32, triton.next_power_of_2(channels)))
        return Config(block, block // 32, 1, max_sums)
    # One warp, so that its sums over channels stay within the warp.
    nvidia = torch.version.cuda is not None and not INTERPRETED
    return Config(32, 1, 1, max_sums, warp_sum=itemsize if nvidia and num_harmonics <= 32 else 0)


def _fake_forward(x, harmonics, weights, senders, receiver_offsets, transpose, sender_offsets, table):
    return x.new_empty(x.shape[0], PathTable.parse(table, int(harmonics.shape[1])).num_out, x.shape[2])


@register("edge_convolution", _fake_forward)
def _forward(
    x: Tensor,
    harmonics: Tensor,
    weights: Tensor,
    senders: Tensor,
    receiver_offsets: Tensor,
    transpose: Tensor,
    sender_offsets: Tensor,
    table: str,
) -> Tensor:
    """(N, K, C) dF/dg; the transpose is for the backward pass."""
    paths = PathTable.parse(table, int(harmonics.shape[1]))
    # An int, also where compilers trace with unknown sizes: kernels are made for a number of channels.
    num_nodes, channels = x.shape[0], int(x.shape[2])
    assert x.shape[1] == paths.num_in
    assert weights.shape == (harmonics.shape[0], len(paths.paths), channels)
    assert receiver_offsets.shape == sender_offsets.shape == (num_nodes + 1,)
    if harmonics.shape[0] == 0:
        return x.new_zeros(num_nodes, paths.num_out, channels)
    out = x.new_empty(num_nodes, paths.num_out, channels)
    cut = config("forward", channels, paths.num_edge, x.element_size())
    launch(
        generated.kernel("forward", paths, cut.step, cut.max_sums, cut.ahead),
        (num_nodes, ceil_div(channels, cut.block)),
        x.contiguous(),
        harmonics.contiguous(),
        weights.contiguous(),
        senders.contiguous(),
        receiver_offsets.contiguous(),
        out,
        CHANNELS=channels,
        BLOCK=cut.block,
        **cut.options,
    )
    return out


def _fake_backward(g, x, harmonics, weights, senders, receiver_offsets, transpose, sender_offsets, table, needed):
    return tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip((x, harmonics, weights), needed, strict=True))


@register("edge_convolution_backward", _fake_backward, opaque_before_2_12=True)
def _backward(
    g: Tensor,
    x: Tensor,
    harmonics: Tensor,
    weights: Tensor,
    senders: Tensor,
    receiver_offsets: Tensor,
    transpose: Tensor,
    sender_offsets: Tensor,
    table: str,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """(N, M, C) dF/dx, (E, J) dF/dY, (E, P, C) dF/dw; empty tensors for those that are not ``needed``."""
    paths = PathTable.parse(table, int(harmonics.shape[1]))
    num_nodes, num_edges, channels = x.shape[0], harmonics.shape[0], int(x.shape[2])
    num_in, num_harmonics, num_paths = paths.num_in, paths.num_edge, len(paths.paths)
    need_x, need_y, need_w = needed
    if num_edges == 0:
        grad_x, grad_y, grad_w = (t.new_zeros(t.shape if need else (0,)) for t, need in zip((x, harmonics, weights), needed, strict=True))
        return grad_x, grad_y, grad_w
    cut = config("backward", channels, num_harmonics, x.element_size())
    num_blocks = ceil_div(channels, cut.block)
    receiver_offsets = receiver_offsets.contiguous()
    grad_edges = x.new_empty((num_edges, num_in, channels) if need_x else (0,))
    grad_parts = x.new_empty((num_blocks, num_edges, num_harmonics) if need_y else (0,))
    grad_x = x.new_empty(x.shape if need_x else (0,))
    grad_harmonics = x.new_empty(harmonics.shape if need_y else (0,))
    grad_weights = x.new_empty(weights.shape if need_w else (0,))
    launch(
        generated.kernel("backward", paths, cut.step, cut.max_sums, cut.ahead, cut.warp_sum),
        (num_nodes, num_blocks),
        g.contiguous(),
        x.contiguous(),
        harmonics.contiguous(),
        weights.contiguous(),
        senders.contiguous(),
        receiver_offsets,
        grad_edges,
        grad_parts,
        grad_weights,
        num_edges,
        CHANNELS=channels,
        BLOCK=cut.block,
        NEED_X=need_x,
        NEED_Y=need_y,
        NEED_W=need_w,
        **cut.options,
    )
    if need_x:
        offsets = sender_offsets.contiguous()
        over_senders(grad_edges, transpose.contiguous(), (offsets[:-1], offsets[1:]), grad_x, num_in * channels, None)
    if need_y:
        blocks = ceil_div(num_edges * num_harmonics, 1024)
        sizes = {"PARTS": num_blocks, "WIDTH": num_harmonics, "BLOCK": 1024}
        launch(sum_parts, (blocks,), grad_parts, receiver_offsets, grad_harmonics, num_nodes, 0, num_edges, **sizes)
    if need_w:
        sizes = {"PROGRAMS": 256, "WIDTH": num_paths * channels, "BLOCK": 1024}
        launch(zero_padding, (256,), receiver_offsets, grad_weights, num_nodes, num_edges, **sizes)
    return grad_x, grad_harmonics, grad_weights


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.table = inputs
    ctx.save_for_backward(*tensors)


def _first_derivative(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[:3]
    grads = _backward(g, *ctx.saved_tensors, ctx.table, needed)
    return *(grad if need else None for grad, need in zip(grads, needed, strict=True)), *(None,) * 5


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.table, ctx.needed = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)  # outputs nobody used come as None and cost nothing


def _second_derivative(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    """Gradients of F(g, u_x, Y, w) + F(g, x, u_Y, w) + F(g, x, Y, u_w): the sum of u . dF by linearity."""
    g, x, harmonics, weights, *edges = ctx.saved_tensors
    need_g = ctx.needs_input_grad[0]
    grads: list[Tensor | None] = [None] * 4

    def add(slot: int, term: Tensor) -> None:
        grad = grads[slot]
        grads[slot] = term if grad is None else grad + term

    for slot, u in enumerate(cotangents):
        if u is None or not ctx.needed[slot]:
            continue
        arguments = [x, harmonics, weights]
        arguments[slot] = u
        if need_g:
            add(0, _forward(*arguments, *edges, ctx.table))
        needed = [need and other != slot for other, need in enumerate(ctx.needs_input_grad[1:4])]
        if any(needed):
            for other, term in enumerate(_backward(g, *arguments, *edges, ctx.table, needed)):
                if needed[other]:
                    add(other + 1, term)
    return *grads, *(None,) * 6


_forward.register_autograd(_first_derivative, setup_context=_keep_forward)
_backward.register_autograd(_second_derivative, setup_context=_keep_backward)


def edge_convolution(
    x_NMC: Tensor,
    harmonics_EJ: Tensor,
    weights_EPC: Tensor,
    senders_E: Tensor,
    receivers_E: Tensor,
    receiver_offsets: Tensor,
    transpose_E: Tensor,
    sender_offsets: Tensor,
    degrees_in: tuple[int, ...],
    paths: Sequence[CouplingPath],
) -> Tensor:
    """(N, K, C), as ``reference.edge_convolution``; sums in the dtype of its inputs, bitwise the same in every run."""
    table = PathTable.describe(degrees_in, paths)
    result: Tensor = _forward(x_NMC, harmonics_EJ, weights_EPC, senders_E, receiver_offsets, transpose_E, sender_offsets, table)
    return result
