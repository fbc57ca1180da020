# mypy: disallow-untyped-defs=False
"""Energies read from the scalars of atoms, in Triton: one kernel forward, one for the gradient of the features.

Everything is in float64 on its own matrix cores, and the hidden numbers are made again by the gradient. The gradient is written
for all rows of the features, zeros for those that are no scalars, so that it needs no second pass to be put into place.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import FINGERPRINT
from mosso.kernels.fused.launch import ceil_div, launch, register
from mosso.kernels.fused.overlap import await_inputs

ATOMS, CHANNELS = 16, 32  # of a tile
MIN_HIDDEN = 16  # what matrix cores take at least


@triton.jit
def _hidden(h, first, atom, live, ROWS: tl.constexpr, C: tl.constexpr, H: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr):
    """(atoms, PADDED) s @ first; one sum per atom, (atoms, 1), where nothing is hidden."""
    unit = tl.arange(0, PADDED)[None, :]
    total = tl.zeros((atom.shape[0], PADDED), tl.float64)
    for begin in range(0, C, BLOCK):
        channel = begin + tl.arange(0, BLOCK)
        inside = channel < C
        scalars = tl.load(h + atom[:, None] * (ROWS * C) + channel[None, :], mask=live[:, None] & inside[None, :], other=0.0)
        weights = tl.load(first + channel[:, None] * H + unit, mask=inside[:, None] & (unit < H), other=0.0)
        if PADDED == 1:
            total += tl.sum(scalars.to(tl.float64) * tl.trans(weights), axis=1)[:, None]
        else:
            total = tl.dot(scalars.to(tl.float64), weights, total, input_precision="ieee", out_dtype=tl.float64)
    return total


@triton.jit
def _readout(
    h, first, second, out, num_atoms,
    ROWS: tl.constexpr, C: tl.constexpr, H: tl.constexpr, PADDED: tl.constexpr, ATOMS: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):  # fmt: skip
    await_inputs(OVERLAPS)
    atom = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    live = atom < num_atoms
    hidden = _hidden(h, first, atom, live, ROWS, C, H, PADDED, BLOCK)
    if PADDED > 1:
        unit = tl.arange(0, PADDED)
        weights = tl.load(second + unit, mask=unit < H, other=0.0)
        hidden = hidden / (1.0 + tl.exp(-hidden)) * weights[None, :]
    tl.store(out + atom, tl.sum(hidden, axis=1), mask=live)


@triton.jit
def _readout_gradient(
    g, h, first, second, grad_h, num_atoms,
    ROWS: tl.constexpr, C: tl.constexpr, H: tl.constexpr, PADDED: tl.constexpr, ATOMS: tl.constexpr, BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):  # fmt: skip
    await_inputs(OVERLAPS)
    atom = tl.program_id(0).to(tl.int64) * ATOMS + tl.arange(0, ATOMS)
    live = atom < num_atoms
    unit = tl.arange(0, PADDED)[None, :]
    slope = tl.load(g + atom, mask=live, other=0.0)[:, None]
    if PADDED > 1:
        hidden = _hidden(h, first, atom, live, ROWS, C, H, PADDED, BLOCK)
        gate = 1.0 / (1.0 + tl.exp(-hidden))
        slope = slope * gate * (1.0 + hidden * (1.0 - gate)) * tl.load(second + unit, mask=unit < H, other=0.0)
    for begin in range(0, C, BLOCK):
        channel = begin + tl.arange(0, BLOCK)
        inside = channel < C
        weights = tl.load(first + channel[:, None] * H + unit, mask=inside[:, None] & (unit < H), other=0.0)
        grad = slope * tl.trans(weights) if PADDED == 1 else tl.dot(slope, tl.trans(weights), input_precision="ieee", out_dtype=tl.float64)
        at = grad_h + atom[:, None] * (ROWS * C) + channel[None, :]
        wanted = live[:, None] & inside[None, :]
        tl.store(at, grad.to(grad_h.dtype.element_ty), mask=wanted)
        for row in tl.static_range(1, ROWS):
            tl.store(at + row * C, tl.zeros_like(grad).to(grad_h.dtype.element_ty), mask=wanted)


def _sizes(h: Tensor, first: Tensor, second: Tensor | None) -> dict[str, int]:
    _, rows, channels = h.shape
    hidden = first.shape[1]
    padded = 1 if second is None else max(MIN_HIDDEN, triton.next_power_of_2(hidden))
    return {"ROWS": rows, "C": channels, "H": hidden, "PADDED": padded, "ATOMS": ATOMS, "BLOCK": CHANNELS, "num_warps": 2}


def _fake_forward(h, first, second, fingerprint):
    return first.new_empty(h.shape[0])


@register("readout", _fake_forward)
def _forward(h: Tensor, first: Tensor, second: Tensor | None, fingerprint: str) -> Tensor:
    """(N,)."""
    out = first.new_empty(h.shape[0])
    if h.shape[0]:
        # Without a second layer its place is taken by a tensor that is not read.
        weights = first.contiguous(), (first if second is None else second).contiguous()
        launch(_readout, (ceil_div(h.shape[0], ATOMS),), h.contiguous(), *weights, out, h.shape[0], **_sizes(h, first, second))
    return out


def _fake_backward(g, h, first, second, fingerprint):
    return h.new_empty(h.shape)


@register("readout_backward", _fake_backward)
def _backward(g: Tensor, h: Tensor, first: Tensor, second: Tensor | None, fingerprint: str) -> Tensor:
    """(N, M, C) gradient of <g, energies> with respect to the features."""
    grad_h = h.new_empty(h.shape)
    if h.shape[0]:
        tensors = [t.contiguous() for t in (g, h, first, first if second is None else second)]
        launch(_readout_gradient, (ceil_div(h.shape[0], ATOMS),), *tensors, grad_h, h.shape[0], **_sizes(h, first, second))
    return grad_h


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors)


def _first_derivative(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    h, first, second = ctx.saved_tensors
    return _backward(g, h, first, second, FINGERPRINT), None, None, None


def _second_derivative(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
    """Gradient of <u, dh> in g and h: plain torch, because only training and Hessians come here."""
    g, h, first, second = ctx.saved_tensors
    along_NH = u[:, 0].to(first.dtype) @ first
    if second is None:
        return along_NH.squeeze(1), None, None, None, None
    hidden_NH = h[:, 0].to(first.dtype) @ first
    gate_NH = torch.sigmoid(hidden_NH)
    slope_NH = gate_NH * (1.0 + hidden_NH * (1.0 - gate_NH))
    curvature_NH = gate_NH * (1.0 - gate_NH) * (2.0 + hidden_NH * (1.0 - 2.0 * gate_NH))
    scalars_NC = (g.unsqueeze(1) * curvature_NH * second * along_NH) @ first.T
    grad_h = torch.nn.functional.pad(scalars_NC.unsqueeze(1), (0, 0, 0, h.shape[1] - 1)).to(h.dtype)
    return (along_NH * slope_NH * second).sum(1), grad_h, None, None, None


_forward.register_autograd(_first_derivative, setup_context=_keep)
_backward.register_autograd(_second_derivative, setup_context=_keep)


def readout(h_NMC: Tensor, first_CH: Tensor, second_H: Tensor | None = None) -> Tensor:
    """(N,) float64 as ``reference.readout``; differentiable in the features, the weights are constants."""
    assert first_CH.dtype == torch.float64, "energies are read in float64 under every policy"
    result: Tensor = _forward(h_NMC, first_CH, second_H, FINGERPRINT)
    return result
