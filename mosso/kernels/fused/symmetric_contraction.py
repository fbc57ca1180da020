"""The symmetric contraction as generated Triton code: a polynomial per channel in registers, one read and one write of memory.

out[n, m, c] = sum over terms t of row m of coefficients[species n, t, c] * product of components of A[n, :, c]
(Batatia et al., MACE (2022), equations 10 and 11 after ``fold_contraction``).

A program owns a few atoms and a block of channels. Its code is a nested Horner form of the table written out line by line,
so that A, its gradient and the adjoints of the nesting stay in registers, and each coefficient is read once per species of
the tile. Four kernels follow from one recursion over the Horner tree:

* forward: values of the tree.
* gradient, f = <g, out>: going down, the adjoint of an inner polynomial is (product of the components above it) * g;
  coming up, df/da_i += adjoint * value of what a_i multiplies. Values and adjoints of one branch are alive at a time.
* second: the gradient differentiated along a direction u, every quantity carrying its rate of change (forward over reverse):
  the Hessian of f times u, and out' = d out / d eps at a + eps u. This is the backward of ``gradient``.
* coefficients: the adjoints that arrive at the leaves, summed over atoms of a species, and the same of their rates.

The ops below are differentiable as often as a force loss needs; ``second`` and ``coefficients_rate`` end the chain.
All sums have a fixed order: results are deterministic, bit for bit.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from mosso.kernels.fused import INTERPRETED
from mosso.kernels.fused.launch import launch, register
from mosso.kernels.fused.overlap import await_inputs
from mosso.kernels.fused.symmetric_contraction_source import TERMS_PER_GROUP, kernels_of
from mosso.math.coupling import ContractionTable


@triton.jit
def _sum_chunks(  # type: ignore[no-untyped-def]
    partial_ptr,
    starts_ptr,
    out_ptr,
    num_columns,
    CHUNK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAPS: tl.constexpr = False,
):
    """out[species] = sum of the partial sums of its chunks; species without atoms get zeros."""
    await_inputs(OVERLAPS)
    species = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    begin = tl.load(starts_ptr + species)
    end = tl.load(starts_ptr + species + 1)
    first = begin // CHUNK
    last = tl.where(end > begin, (end + CHUNK - 1) // CHUNK, first)
    total = tl.zeros([BLOCK_ROWS, BLOCK], dtype=out_ptr.dtype.element_ty)
    for chunk in range(first, last, BLOCK_ROWS):
        row = chunk + tl.arange(0, BLOCK_ROWS)
        inside = (row < last)[:, None] & (column < num_columns)[None, :]
        total += tl.load(partial_ptr + (row + species)[:, None] * num_columns + column[None, :], mask=inside, other=0.0)
    tl.store(out_ptr + species * num_columns + column, tl.sum(total, 0), mask=column < num_columns)


# ---- launches --------------------------------------------------------------------------------------------------------


class Blocks(NamedTuple):
    """Shape of a program: ``atoms`` (of a tile or a chunk) x ``channels``, spread over ``warps``.

    32 channels per warp give a thread one channel of all atoms of the tile, so a coefficient it has read serves them all.
    """

    atoms: int
    channels: int
    warps: int


# Below, tiles of one atom are faster on an H200.
FEW_ATOMS = 800
# Atoms of a tile above: as many as fit the registers, but of the gradient two, which for long tables is twice as fast as four.
MOST_ATOMS = {
    torch.float32: {"forward": 4, "gradient": 2, "second": 2},
    torch.float64: {"forward": 2, "gradient": 2, "second": 1},
}


def blocks_for(kernel: str, dtype: torch.dtype, num_atoms: int, channels: int) -> Blocks:
    """Large tiles, without leaving multiprocessors of a large GPU idle; by times on an H200."""
    if kernel == "coefficients":
        return Blocks(16 if num_atoms < 4096 else 64, 32, 1)
    if num_atoms < FEW_ATOMS:
        return Blocks(1, 32, 1)
    warps = 2 if channels > 32 and kernel != "second" else 1
    return Blocks(MOST_ATOMS[dtype][kernel], 32 * warps, warps)


def launch_tiles(
    name: str, text: str, tensors: tuple[Tensor, ...], species_N: Tensor, order_N: Tensor | None, blocks: Blocks | None = None
) -> None:
    """``forward``, ``gradient`` or ``second`` over all atoms; ``tensors`` are contiguous, the first is (N, .., C)."""
    num_atoms, channels = tensors[0].shape[0], tensors[0].shape[2]
    blocks = blocks or blocks_for(name, tensors[0].dtype, num_atoms, channels)
    species_N = species_N.contiguous()
    order = species_N if order_N is None else order_N.contiguous()
    constants = {"ORDERED": order_N is not None, "CHANNELS": channels, "BLOCK_N": blocks.atoms, "BLOCK_C": blocks.channels}
    grid = (triton.cdiv(num_atoms, blocks.atoms), triton.cdiv(channels, blocks.channels))
    launch(getattr(kernels_of(text), name), grid, *tensors, species_N, order, num_atoms, num_warps=blocks.warps, **constants)


def sum_coefficients(
    name: str, text: str, tensors: tuple[Tensor, ...], species_N: Tensor, num_species: int, blocks: Blocks | None = None
) -> Tensor:
    """(S, T, C): ``coefficients`` or ``coefficients_rate`` per chunk of atoms sorted by species, then the sum of chunks."""
    kernels = kernels_of(text)
    num_atoms, channels = tensors[0].shape[0], tensors[0].shape[2]
    num_terms = kernels.polynomial.num_terms
    if num_atoms == 0 or channels == 0 or num_terms == 0:
        return tensors[0].new_zeros(num_species, num_terms, channels)
    blocks = blocks or blocks_for("coefficients", tensors[0].dtype, num_atoms, channels)
    # Sorted here, whatever order the caller has: this result depends on it, the others only gain speed from one.
    sorted_N, order_N = torch.sort(species_N, stable=True)
    starts = torch.searchsorted(sorted_N, torch.arange(num_species + 1, device=species_N.device))
    num_chunks = triton.cdiv(num_atoms, blocks.atoms)
    partial = tensors[0].new_empty(num_chunks + num_species, num_terms, channels)
    grid = (num_chunks, triton.cdiv(channels, blocks.channels), triton.cdiv(num_terms, TERMS_PER_GROUP))
    constants = {"CHANNELS": channels, "CHUNK": blocks.atoms, "BLOCK_C": blocks.channels}
    pointers = (*tensors, partial, species_N.contiguous(), order_N)
    launch(getattr(kernels, name), grid, *pointers, num_atoms, num_warps=blocks.warps, **constants)
    out = tensors[0].new_empty(num_species, num_terms, channels)
    columns = num_terms * channels
    constants = {"CHUNK": blocks.atoms, "BLOCK_ROWS": 8, "BLOCK": 128, "num_warps": 4}
    launch(_sum_chunks, (num_species, triton.cdiv(columns, 128)), partial, starts, out, columns, **constants)
    return out


# ---- ops -------------------------------------------------------------------------------------------------------------


@register("symmetric_contraction")
def contraction(
    a_NMC: Tensor, coefficients_STC: Tensor, species_N: Tensor, order_N: Tensor | None, polynomial: str, coefficient_gradient: bool
) -> Tensor:
    """(N, M', C). With ``coefficient_gradient`` false, the backward leaves the coefficients to ``CoefficientBranch``."""
    a, w = a_NMC.contiguous(), coefficients_STC.contiguous()
    out = a.new_empty(a.shape[0], len(kernels_of(polynomial).polynomial.rows), a.shape[2])
    if out.numel():
        launch_tiles("forward", polynomial, (a, w, out), species_N, order_N)
    return out


@register("symmetric_contraction_gradient")
def gradient(g_NMC: Tensor, a_NMC: Tensor, coefficients_STC: Tensor, species_N: Tensor, order_N: Tensor | None, polynomial: str) -> Tensor:
    """(N, M, C): d <g, out> / dA."""
    g, a, w = g_NMC.contiguous(), a_NMC.contiguous(), coefficients_STC.contiguous()
    d = torch.empty_like(a)
    if d.numel():
        launch_tiles("gradient", polynomial, (g, a, w, d), species_N, order_N)
    return d


@register("symmetric_contraction_second")
def second(
    u_NMC: Tensor, g_NMC: Tensor, a_NMC: Tensor, coefficients_STC: Tensor, species_N: Tensor, order_N: Tensor | None, polynomial: str
) -> tuple[Tensor, Tensor]:
    """(N, M', C) rate of change of out along u, and (N, M, C) Hessian of <g, out> times u."""
    u, g, a, w = u_NMC.contiguous(), g_NMC.contiguous(), a_NMC.contiguous(), coefficients_STC.contiguous()
    out_rate, d = torch.empty_like(g), torch.empty_like(a)
    if d.numel():
        launch_tiles("second", polynomial, (u, g, a, w, out_rate, d), species_N, order_N)
    return out_rate, d


@register("symmetric_contraction_coefficients")
def coefficients(g_NMC: Tensor, a_NMC: Tensor, species_N: Tensor, num_species: int, polynomial: str) -> Tensor:
    """(S, T, C): d <g, out> / d coefficients."""
    return sum_coefficients("coefficients", polynomial, (g_NMC.contiguous(), a_NMC.contiguous()), species_N, num_species)


@register("symmetric_contraction_coefficients_rate")
def coefficients_rate(u_NMC: Tensor, g_NMC: Tensor, a_NMC: Tensor, species_N: Tensor, num_species: int, polynomial: str) -> Tensor:
    """(S, T, C): rate of change of ``coefficients`` along u."""
    tensors = (u_NMC.contiguous(), g_NMC.contiguous(), a_NMC.contiguous())
    return sum_coefficients("coefficients_rate", polynomial, tensors, species_N, num_species)


def _contraction_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.polynomial, ctx.coefficient_gradient = inputs[4:]


def _contraction_backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    a, w, species, order = ctx.saved_tensors
    of_a = gradient(g, a, w, species, order, ctx.polynomial) if ctx.needs_input_grad[0] else None
    needs_w = ctx.needs_input_grad[1] and ctx.coefficient_gradient
    of_w = coefficients(g, a, species, w.shape[0], ctx.polynomial) if needs_w else None
    return of_a, of_w, None, None, None, None


def _gradient_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.polynomial = inputs[5]


def _gradient_backward(ctx: Any, u: Tensor) -> tuple[Any, ...]:
    g, a, w, species, order = ctx.saved_tensors
    of_g = of_a = of_w = None
    if any(ctx.needs_input_grad[:2]):
        of_g, of_a = second(u, g, a, w, species, order, ctx.polynomial)
    if ctx.needs_input_grad[2]:
        of_w = coefficients_rate(u, g, a, species, w.shape[0], ctx.polynomial)
    return of_g, of_a, of_w, None, None, None


def _coefficients_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.polynomial = inputs[4]


def _coefficients_backward(ctx: Any, v: Tensor) -> tuple[Any, ...]:
    g, a, species = ctx.saved_tensors
    # Linear in g with the contraction itself as its matrix: v stands where the coefficients did.
    order = torch.argsort(species, stable=True)
    of_g = contraction(a, v, species, order, ctx.polynomial, True) if ctx.needs_input_grad[0] else None
    of_a = gradient(g, a, v, species, order, ctx.polynomial) if ctx.needs_input_grad[1] else None
    return of_g, of_a, None, None, None


contraction.register_autograd(_contraction_backward, setup_context=_contraction_setup)
gradient.register_autograd(_gradient_backward, setup_context=_gradient_setup)
coefficients.register_autograd(_coefficients_backward, setup_context=_coefficients_setup)


class CoefficientBranch(torch.autograd.Function):
    """Zeros in the shape of the output, whose derivative is that of the contraction with respect to the coefficients.

    A branch of its own lets autograd skip it: a force is a gradient that asks for positions while the coefficients require
    one too, and the backward of a single node would have to make both. A is handed over inside a tuple, so that this node has
    no edge to it and only a request for the coefficients runs it; its history comes along for the second derivative.
    """

    @staticmethod
    def forward(ctx: Any, coefficients_STC: Tensor, others: tuple[Tensor, Tensor], polynomial: str) -> Tensor:
        ctx.save_for_backward(*others)
        ctx.num_species, ctx.polynomial = coefficients_STC.shape[0], polynomial
        a_NMC = others[0]
        return a_NMC.new_zeros(()).expand(a_NMC.shape[0], len(kernels_of(polynomial).polynomial.rows), a_NMC.shape[2])

    @staticmethod
    def backward(ctx: Any, g_NMC: Tensor) -> tuple[Any, ...]:
        a_NMC, species_N = ctx.saved_tensors
        return coefficients(g_NMC, a_NMC, species_N, ctx.num_species, ctx.polynomial), None, None


def symmetric_contraction_triton(
    a_NMC: Tensor, coefficients_STC: Tensor, species_N: Tensor, table: ContractionTable, order_N: Tensor | None = None
) -> Tensor:
    """(N, M', C): ``reference.symmetric_contraction`` by the kernels of this file, twice differentiable.

    Args:
        a_NMC: (N, M, C) float32 or float64; sums are made in the same format.
        coefficients_STC: (S, T, C) of the same format, ``fold_contraction`` makes them.
        species_N: (N,) int64 in 0 .. S - 1; checking that would mean waiting for the device.
        table: the polynomial; its kernels are generated once.
        order_N: (N,) int64, a permutation that sorts ``species_N``. It changes the speed, never the result.
    """
    obstacle = why_not(a_NMC, coefficients_STC, species_N, table)
    if obstacle:
        raise ValueError(f"The Triton symmetric contraction cannot run: {obstacle}.")
    # A compiler drops what nobody asks for by itself.
    branch = coefficients_STC.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()
    out = contraction(a_NMC, coefficients_STC, species_N, order_N, table.text, not branch)
    if branch:
        out = out + CoefficientBranch.apply(coefficients_STC, (a_NMC, species_N), table.text)
    return out


def why_not(a_NMC: Tensor, coefficients_STC: Tensor, species_N: Tensor, table: ContractionTable) -> str | None:
    """What keeps the kernels from running on these inputs, in words; None if nothing does."""
    if not (a_NMC.is_cuda or INTERPRETED):
        return f"its kernels need a CUDA device and A is on {a_NMC.device}; choose the reference implementation"
    if a_NMC.dtype not in (torch.float32, torch.float64):
        return f"A is {a_NMC.dtype}, and sums are made in the format of A; give it float32 or float64"
    if coefficients_STC.dtype != a_NMC.dtype:
        return f"the coefficients are {coefficients_STC.dtype} and A is {a_NMC.dtype}; give both the same format"
    num_atoms, num_components, channels = a_NMC.shape
    if coefficients_STC.shape[1:] != (len(table.rows), channels) or species_N.shape != (num_atoms,):
        shapes = f"{tuple(a_NMC.shape)}, {tuple(coefficients_STC.shape)} and {tuple(species_N.shape)}"
        return f"A, the coefficients and the species have shapes {shapes}; give (N, M, C), (S, {len(table.rows)}, C) and (N,)"
    if num_components != table.num_components:
        return f"A has {num_components} components and the table is made for {table.num_components}"
    if species_N.dtype != torch.int64:
        return f"species are {species_N.dtype}; give int64"
    return None
