# mypy: disallow-untyped-defs=False
"""The edge convolution with tabulated radial weights in Triton: forward and first derivative, deterministic, no atomics.

Weights are evaluated in registers from a row of the table that the edge names, so nothing of the size of edges x paths x
channels is ever stored. The kernels are those of ``edge_convolution`` with another source of weights (``Tabulated``).

forward: one program per receiver and block of channels runs over the incoming edges; one write per output.
backward: the same programs give dt and dY (per block of channels, summed by a second kernel) and dx per edge, which
another kernel sums over the outgoing edges of each sender, in the dtype of x in whatever format dx waits. What holds it has a
bounded size: the edges are taken in chunks that fit it, cut by number, so that the host needs to know nothing of the graph.

N atoms, E edges, P paths, C channels, M components of x, J features of an edge, K components of the output, R rows of the table.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mosso.kernels.fused import INTERPRETED
from mosso.kernels.fused import edge_convolution_source as generated
from mosso.kernels.fused.edge_convolution_source import PathTable, Tabulated
from mosso.kernels.fused.edge_sums import cut_by_sender, over_senders, sum_parts
from mosso.kernels.fused.launch import Config, ceil_div, launch, register
from mosso.kernels.reference import Visits
from mosso.math.coupling import CouplingPath

# Most that gradients per edge and channel may take at a time: those of so many edges for each atom, between these two. Not a share of
# the edges there is room for: where a chunk ends decides in which order is summed, and the same atoms have the same bits in any room.
SCRATCH_BYTES, SCRATCH_EDGES = (9 * 2**30 // 10, 2**31), 17
# Formats of the coarse table in which gradients per edge wait for their sum, too: half the traffic and the scratch.
HALVES = (torch.float16, torch.bfloat16)
# Channels of a program, one per thread of one warp.
BLOCK = 32
# Products of a component of x and a harmonic, over all paths: with up to so many the sums of all are few, and up to the second number
# registers are left for the loads of the next edge.
FEW_PAIRS, MAX_PAIRS_AHEAD = 96, 192
# Sums in registers beside those loads.
MAX_SUMS_AHEAD = {"forward": 160, "backward": 192}
# Of a thread of each kernel, where sums are few: what programs that share a multiprocessor leave each other. Coefficients of half as
# many bytes need fewer in the forward kernel.
REGISTERS = {"forward": 232, "halves": 128, "backward": 168}
# Programs of a chunk by the number of receivers it has on average; where there are more, programs take several.
SPARE = 2
# Programs of the backward pass that fill an H200, and at most so many of a receiver and block of channels.
ENOUGH_PROGRAMS, MOST_SHARES = 16384, 8


def config(direction: str, known: PathTable, itemsize: int, table_itemsize: int) -> Config:
    """One warp, one channel per thread: the programs of a multiprocessor then share few enough columns of the table for a row of
    it to stay in the L1 cache until the last of them has read it. Loads go ahead where registers are left for them, two edges at a
    time where the rows are long and the sums few; registers are limited where more programs are worth more. By times on an H200."""
    nvidia = torch.version.cuda is not None and not INTERPRETED
    pairs = sum(known.num_pairs)
    ahead, few = itemsize == 4 and pairs <= MAX_PAIRS_AHEAD, itemsize == 4 and pairs <= FEW_PAIRS
    max_sums = MAX_SUMS_AHEAD[direction] if ahead else generated.MAX_HOISTED[itemsize]
    if direction == "backward":
        warp_sum = itemsize if nvidia and known.num_edge <= 32 else 0
        return Config(BLOCK, 1, 1, max_sums, ahead, warp_sum, REGISTERS["backward"] if few and nvidia else 0)
    halves = table_itemsize < itemsize
    registers = REGISTERS["halves" if halves else "forward"] if few and nvidia else 0
    return Config(BLOCK, 1, 2 if few and not halves else 1, max_sums, ahead, max_registers=registers)


def _fake_forward(x, features, table, coarse, senders, rows, order, receiver_offsets, transpose, sender_offsets, paths):
    return x.new_empty(x.shape[0], PathTable.parse(paths, int(features.shape[1])).num_out, x.shape[2])


@register("tabulated_convolution", _fake_forward)
def _forward(
    x: Tensor,
    features: Tensor,
    table: Tensor,
    coarse: Tensor,
    senders: Tensor,
    rows: Tensor,
    order: Tensor,
    receiver_offsets: Tensor,
    transpose: Tensor,
    sender_offsets: Tensor,
    paths: str,
) -> Tensor:
    """(N, K, C); ``senders``, ``rows`` and ``order`` in the order of visits. ``coarse`` may be the table itself, which is for the
    backward pass, as the transpose is."""
    known = PathTable.parse(paths, int(features.shape[1]))
    # An int, also where compilers trace with unknown sizes: kernels are made for a number of channels.
    num_nodes, channels = x.shape[0], int(x.shape[2])
    assert x.shape[1] == known.num_in
    assert table.shape[1:] == coarse.shape[1:] == (len(known.paths), channels, 4)
    ratio = int(table.shape[0]) // int(coarse.shape[0])
    assert ratio * coarse.shape[0] == table.shape[0]
    assert receiver_offsets.shape == sender_offsets.shape == (num_nodes + 1,)
    if features.shape[0] == 0:
        return x.new_zeros(num_nodes, known.num_out, channels)
    out = x.new_empty(num_nodes, known.num_out, channels)
    cut = config("forward", known, x.element_size(), coarse.element_size())
    launch(
        generated.kernel("forward", known, cut.step, cut.max_sums, cut.ahead, weights=Tabulated(ratio)),
        (num_nodes, ceil_div(channels, cut.block)),
        x.contiguous(),
        features.contiguous(),
        coarse.contiguous(),
        senders.contiguous(),
        rows.contiguous(),
        order.contiguous(),
        receiver_offsets.contiguous(),
        out,
        CHANNELS=channels,
        BLOCK=cut.block,
        **cut.options,
    )
    return out


def _edges_at_once(num_nodes: int, bytes_of_edge: int) -> int:
    """How many edges of a graph there is scratch for; one at least."""
    least, most = SCRATCH_BYTES
    return max(1, min(most, max(least, SCRATCH_EDGES * num_nodes * bytes_of_edge)) // bytes_of_edge)


def _chunks(num_edges: int, most: int) -> list[tuple[int, int]]:
    """First and last edge of pieces of at most ``most``."""
    if num_edges <= most:  # asked first, because a range would fix the number of edges where compilers trace
        return [(0, num_edges)]
    return [(first, min(first + most, num_edges)) for first in range(0, num_edges, most)]


def _receivers_of(chunks: list[tuple[int, int]], receiver_offsets: Tensor) -> Tensor:
    """(chunks, 2) first and last of the atoms at which the edges of a chunk end."""
    firsts = torch.arange(len(chunks) + 1, device=receiver_offsets.device) * chunks[0][1]
    receivers = (torch.searchsorted(receiver_offsets, firsts, right=True) - 1).clamp(max=receiver_offsets.shape[0] - 2)
    return torch.stack([receivers[:-1], receivers[1:]], dim=1)


def _fake_backward(g, x, features, table, senders, rows, order, receiver_offsets, transpose, sender_offsets, paths, waiting, needed):
    return tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip((x, features), needed, strict=True))


@register("tabulated_convolution_backward", _fake_backward, opaque_before_2_12=True)
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
    waiting: str,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    """(N, M, C) and (E, J) gradients of x and features; empty tensors for those that are not ``needed``. ``waiting`` names the format
    in which gradients of x per edge wait for their sum."""
    known = PathTable.parse(paths, int(features.shape[1]))
    num_nodes, num_edges, channels = x.shape[0], features.shape[0], int(x.shape[2])
    width, num_features = known.num_in * channels, known.num_edge
    need_x, need_y = needed
    if num_edges == 0:
        return x.new_zeros(x.shape if need_x else (0,)), features.new_empty(features.shape if need_y else (0,))
    num_blocks = ceil_div(channels, BLOCK)
    format_x = getattr(torch, waiting)
    per_edge = (width * format_x.itemsize if need_x else 0) + (num_blocks * num_features * x.element_size() if need_y else 0)
    chunks = _chunks(num_edges, _edges_at_once(num_nodes, per_edge))
    chunked, longest = len(chunks) > 1, chunks[0][1]
    cut = config("backward", known, x.element_size(), table.element_size())
    edges = [t.contiguous() for t in (x, features, table, senders, rows, order, receiver_offsets)]
    transpose, sender_offsets = transpose.contiguous(), sender_offsets.contiguous()
    grad_edges = x.new_empty((longest, width) if need_x else (0,), dtype=format_x)
    grad_parts = x.new_empty((num_blocks, longest, num_features) if need_y else (0,))
    grad_x = x.new_empty(x.shape) if need_x and len(chunks) == 1 else x.new_zeros(x.shape if need_x else (0,))
    grad_features = x.new_empty(features.shape if need_y else (0,))
    kernel = generated.kernel("backward", known, cut.step, cut.max_sums, cut.ahead, cut.warp_sum, Tabulated(), chunked)
    sizes = {"CHANNELS": channels, "BLOCK": cut.block, "NEED_X": need_x, "NEED_Y": need_y}
    by_parts = {"PARTS": num_blocks, "WIDTH": num_features, "BLOCK": 1024}
    g = g.contiguous()
    shares = min(MOST_SHARES, max(1, ENOUGH_PROGRAMS // max(1, num_nodes * num_blocks)))
    grid = (num_nodes, num_blocks, shares)
    places, receivers = [sender_offsets[:-1], sender_offsets[1:]], None
    if chunked:
        grid = (min(num_nodes, ceil_div(SPARE * num_nodes, len(chunks))), num_blocks, shares)
        places = list(cut_by_sender(transpose, sender_offsets, len(chunks), longest)) if need_x else []
        receivers = _receivers_of(chunks, edges[-1])
    for number, (first, last) in enumerate(chunks):
        own = () if receivers is None else (receivers[number],)
        launch(kernel, grid, g, *edges, grad_edges, grad_parts, first, last, *own, **sizes, **cut.options)
        if need_x:
            over_senders(grad_edges, transpose, (places[number], places[number + 1]), grad_x, width, first if chunked else None)
        if need_y:
            programs = ceil_div((last - first) * num_features, 1024)
            launch(sum_parts, (programs,), grad_parts, edges[-1], grad_features, num_nodes, first, last, **by_parts)
    return grad_x, grad_features


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, features, table, coarse, *edges, ctx.paths = inputs
    # Who makes the output of weights in half precision does not want gradients that are more exact.
    ctx.waiting = str(coarse.dtype if coarse.dtype in HALVES else x.dtype).removeprefix("torch.")
    ctx.save_for_backward(x, features, table, *edges)


def _first_derivative(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[:2]
    grads = _backward(g, *ctx.saved_tensors, ctx.paths, ctx.waiting, needed)
    return *(grad if need else None for grad, need in zip(grads, needed, strict=True)), *(None,) * 9


def _second_derivative(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    raise ValueError(
        "The triton implementation of tabulated_convolution has a first derivative only: ask for 'reference' to differentiate twice."
    )


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
    coarse_RPCQ: Tensor | None = None,
) -> Tensor:
    """(N, K, C), as ``reference.tabulated_convolution`` but differentiable once; bitwise the same in every run.

    Arithmetic is in the dtype of x and the features; the tables may have any real one, and get no gradient. Where that of the
    coarse one (or the only one) is half precision, gradients of x are rounded to it edge by edge before they are summed. The transpose
    lists the edges of each sender in ascending order.
    """
    coarse_RPCQ = table_RPCQ if coarse_RPCQ is None else coarse_RPCQ
    if table_RPCQ.requires_grad or coarse_RPCQ.requires_grad:
        raise ValueError(
            "The triton implementation of tabulated_convolution gives no gradient of its table: detach it or ask for 'reference'."
        )
    if visits is None:
        visits = Visits(torch.arange(rows_E.shape[0], dtype=torch.int32, device=rows_E.device), senders_E, rows_E)
    edges = (visits.senders_E, visits.rows_E, visits.order_E, receiver_offsets, transpose_E, sender_offsets)
    result: Tensor = _forward(x_NMC, features_EJ, table_RPCQ, coarse_RPCQ, *edges, PathTable.describe(degrees_in, paths))
    return result
