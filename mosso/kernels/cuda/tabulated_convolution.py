"""The tabulated convolution with its backward in CUDA C++, on tensor cores; the forward is that of ``fused.tabulated_convolution``.

backward: one warp per receiver and block of channels takes 16 of the incoming edges and 8 channels at a time. The sums over harmonics and
those over channels, which are most of the arithmetic, are products of matrices in twice the precision of the tensor cores: as exact as
float32 elsewhere. Coefficients are asked for two paths ahead of their use, across channels and edges. dY comes in parts, one per block
of channels, dx comes per edge; both are summed as in the triton one, chunk by chunk, and are the same bits in every run. The kernel is in
``tabulated_convolution.cuh``, its source is put together per table of paths.

N atoms, E edges, P paths, C channels, M components of x, J features of an edge, K components of the output, R rows of the table.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from mosso.kernels.cuda import driver
from mosso.kernels.cuda.tabulated_convolution_source import Cut, shared_bytes, source
from mosso.kernels.fused import tabulated_convolution as fused
from mosso.kernels.fused.edge_convolution_source import PathTable
from mosso.kernels.fused.edge_sums import over_senders, sum_parts
from mosso.kernels.fused.launch import ceil_div, launch
from mosso.kernels.reference import Visits
from mosso.math.coupling import CouplingPath

_MAX_EDGES = 2**31 - 32  # counted in 32 bits, with room for a tile behind the last


def shape_obstacle(
    features_EJ: Tensor, rows_E: Tensor, table_RPCQ: Tensor, visits: Visits | None, degrees_in: tuple[int, ...]
) -> str | None:
    """Why the kernel cannot take these shapes and types, None where it can."""
    channels = int(table_RPCQ.shape[2])
    if channels % 8:
        return f"it takes multiples of 8 channels, and there are {channels}"
    if features_EJ.shape[1] > 16:
        return f"it takes harmonics of degree 3 at most, and there are {features_EJ.shape[1]} features"
    if max(degrees_in) > 2:
        return f"it takes degrees 0 to 2, and there are {degrees_in}"
    if table_RPCQ.dtype not in (torch.float32, torch.float16):
        return f"it takes tables in float32 or float16, and this one is {table_RPCQ.dtype}"
    if rows_E.dtype != torch.int32 or (visits is not None and visits.order_E.dtype != torch.int32):
        return "it takes rows and orders in int32"
    return None


def cut(known: PathTable, table: Tensor, senders: Tensor, receiver_offsets: Tensor, needed: Sequence[bool]) -> Cut:
    """Eight warps on a multiprocessor, each with all the registers a thread can have: with fewer, compilers move loads to where their
    results are needed, and waiting takes most of the time. Where x has degree 2, G of 32 channels is too large for eight."""
    channels, widest = int(table.shape[2]), 32 if known.num_in <= 4 else 16
    block = next(block for block in (32, 24, 16, 8) if block <= widest and channels % block == 0)
    types = table.dtype, senders.dtype, receiver_offsets.dtype
    return Cut(channels, block, 8, *types, need_x=needed[0], need_y=needed[1])


@lru_cache(maxsize=64)
def kernel(table: PathTable, how: Cut, device: torch.device) -> driver.Kernel:
    """Compiled for a device and loaded there; made once."""
    module = driver.Module(source(table, how), torch.cuda.current_device() if device.index is None else device.index)
    return module.kernel("backward", 32, shared_bytes(table, how), how.resident)


def _ready(t: Tensor) -> Tensor:
    """Contiguous, and at an address that 16 bytes can be read from."""
    t = t.contiguous()
    return t if t.data_ptr() % 16 == 0 else t.clone()


@custom_op("mosso::tabulated_convolution_cuda", mutates_args=())
def _forward(
    x: Tensor,
    features: Tensor,
    table: Tensor,
    senders: Tensor,
    rows: Tensor,
    order: Tensor,
    receiver_offsets: Tensor,
    transpose: Tensor,
    sender_offsets: Tensor,
    paths: str,
) -> Tensor:
    """(N, K, C)."""
    result: Tensor = fused._forward(x, features, table, senders, rows, order, receiver_offsets, transpose, sender_offsets, paths)
    return result


@custom_op("mosso::tabulated_convolution_cuda_backward", mutates_args=())
def _backward(
    g: Tensor,
    x: Tensor,
    features: Tensor,
    table: Tensor,
    senders: Tensor,
    rows: Tensor,
    order: Tensor,
    receiver_offsets: Tensor,
    transpose: Tensor,
    sender_offsets: Tensor,
    paths: str,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """(N, M, C) and (E, J) gradients of x and features; empty tensors for those that are not ``needed``."""
    known = PathTable.parse(paths, features.shape[1])
    num_nodes, num_edges, channels = x.shape[0], features.shape[0], x.shape[2]
    assert num_edges <= _MAX_EDGES
    width, num_features = known.num_in * channels, known.num_edge
    need_x, need_y = needed
    how = cut(known, table, senders, receiver_offsets, needed)
    run, blocks = kernel(known, how, x.device), channels // how.block
    per_edge = 4 * ((width if need_x else 0) + (blocks * num_features if need_y else 0))
    chunks = fused._chunks(num_edges, max(1, fused.SCRATCH_BYTES // per_edge))
    longest = chunks[0][1]
    inputs = [_ready(t) for t in (g, x, features, table, senders, rows, order, receiver_offsets)]
    by_sender = (transpose.contiguous(), sender_offsets.contiguous())
    grad_edges = x.new_empty((longest, width) if need_x else (0,))
    parts = x.new_empty((blocks, longest, num_features) if need_y else (0,))
    grad_x = x.new_empty(x.shape) if need_x and len(chunks) == 1 else x.new_zeros(x.shape if need_x else (0,))
    grad_features = x.new_empty(features.shape if need_y else (0,))
    by_parts = {"PARTS": blocks, "WIDTH": num_features, "BLOCK": 1024}
    for first, last in chunks:
        run((num_nodes, blocks), *inputs, first, last, grad_edges, parts)
        if need_x:
            over_senders(grad_edges, *by_sender, grad_x, width, (first, last) if len(chunks) > 1 else None)
        if need_y:
            programs = ceil_div((last - first) * num_features, 1024)
            launch(sum_parts, (programs,), parts, inputs[-1], grad_features, num_nodes, first, last, **by_parts)
    return grad_x, grad_features


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.paths = inputs
    ctx.save_for_backward(*tensors)


def _first_derivative(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    needed = list(ctx.needs_input_grad[:2])
    grads = _backward(g, *ctx.saved_tensors, ctx.paths, needed)
    return *(grad if need else None for grad, need in zip(grads, needed, strict=True)), *(None,) * 8


def _second_derivative(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    raise ValueError(
        "The cuda implementation of tabulated_convolution has a first derivative only: ask for 'reference' to differentiate twice."
    )


_forward.register_fake(fused._fake_forward)
_backward.register_fake(fused._fake_backward)
_forward.register_autograd(_first_derivative, setup_context=_keep)
_backward.register_autograd(_second_derivative)


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
    visits: Visits | None = None,
) -> Tensor:
    """(N, K, C), as ``fused.tabulated_convolution`` for the shapes that ``shape_obstacle`` lets through, in float32."""
    if table_RPCQ.requires_grad:
        raise ValueError(
            "The cuda implementation of tabulated_convolution gives no gradient of its table: detach it or ask for 'reference'."
        )
    if visits is None:
        visits = Visits(torch.arange(rows_E.shape[0], dtype=torch.int32, device=rows_E.device), senders_E, rows_E)
    edges = (visits.senders_E, visits.rows_E, visits.order_E, receiver_offsets, transpose_E, sender_offsets)
    result: Tensor = _forward(x_NMC, features_EJ, table_RPCQ, *edges, PathTable.describe(degrees_in, paths))
    return result
