"""The linear layers over paths, with and without species, against their reference: the contract every fused op is held to.

Runs on the GPU where there is one, else under Triton's interpreter, for which TRITON_INTERPRET has to be set before
anything imports triton: test_contracts.py starts it in a process of its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from kernels.contract import (
    BOTH,
    CUDA,
    DEVICE,
    assert_same_bits,
    check,
    check_compile_and_export,
    check_only_needed_gradients,
    derivatives,
    largest,
    spread,
)
from torch import Tensor

from mosso import kernels
from mosso.kernels import dispatch
from mosso.kernels.fused import INTERPRETED
from mosso.kernels.fused import path_linear as fused
from mosso.math.irreps import num_components

# What a mode that rounds its operands may be off by, likewise; the interpreter computes tf32 in float32.
ROUNDED = {"tf32": 2e-3, "fp16": 2e-3, "bf16": 1e-2}
assert INTERPRETED is not CUDA, "set TRITON_INTERPRET=1 where there is no CUDA device, and only there"

MIXING = ((0, 1, 2, 3), ((0, 1), (2, 5, 8), (11, 16, 21), (26, 33)))  # 10 paths of degrees (0, 1) and max_ell 3: 40 rows to 16
pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Case(NamedTuple):
    """A problem: tensors in float64, blocks, species where the weights depend on them."""

    x: Tensor
    weights: list[Tensor]
    degrees: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    groups: kernels.SpeciesGroups | None
    bias: Tensor | None = None
    species: Tensor | None = None

    @property
    def inputs(self) -> list[Tensor]:
        """What has a gradient: x, weights, bias where there is one."""
        return [self.x, *self.weights, *([] if self.bias is None else [self.bias])]

    def op(self, *inputs: Tensor, implementation: str = "triton", matmul: str = "ieee") -> Tensor:
        x, weights, (bias, *_) = inputs[0], inputs[1 : 1 + len(self.degrees)], (*inputs[1 + len(self.degrees) :], None)
        if self.groups is None:
            return kernels.path_linear(x, weights, self.degrees, self.starts, matmul, bias, self.species, implementation)
        return kernels.species_path_linear(x, weights, self.degrees, self.starts, self.groups, matmul, bias, implementation)

    def run(self, implementation: str, dtype: torch.dtype, matmul: str = "ieee", order: int = 2) -> list[Tensor]:
        """The output and its derivatives up to ``order``; the reference is never rounded."""
        how = {"implementation": implementation, "matmul": "ieee" if implementation == "reference" else matmul}
        return derivatives(lambda *inputs: self.op(*inputs, **how), [t.to(dtype) for t in self.inputs], order)


def make_case(
    degrees: tuple[int, ...],
    starts: tuple[tuple[int, ...], ...],
    sizes: tuple[int, int, int],
    *,
    rows: int = 0,
    num_species: int = 0,
    missing: int | None = None,
    bias: bool = False,
) -> Case:
    """Random tensors for N atoms, C and D channels; ``rows`` of x where not all are read; no atom has the species ``missing``.

    With ``num_species`` weights depend on them; with ``bias`` there is one, by species.
    """
    atoms, channels_in, channels_out = sizes
    generator = torch.Generator().manual_seed(sum(sizes) + num_species)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)

    read = sum((2 * degree + 1) * len(firsts) for degree, firsts in zip(degrees, starts, strict=True))
    leading = (num_species,) if num_species else ()
    weights = [rand(*leading, len(firsts) * channels_in, channels_out) for firsts in starts]
    groups = None
    if num_species:
        kinds = torch.tensor([s for s in range(num_species) if s != missing])
        species = kinds[torch.randint(len(kinds), (atoms,), generator=generator)]
        groups = kernels.SpeciesGroups.of(species.to(DEVICE))
    kinds = torch.randint(3, (atoms,), generator=generator).to(DEVICE) if groups is None else groups.species_N
    by_species = (rand(num_species or 3, channels_out), kinds) if bias else (None, None)
    return Case(rand(atoms, rows or read, channels_in), weights, degrees, starts, groups, *by_species)


def check_products(case: Case, dtypes: tuple[torch.dtype, ...] = BOTH, matmul: str = "ieee", order: int = 2) -> None:
    check(lambda *how: case.run(*how, matmul, order), dtypes)


SHAPES: dict[str, Callable[[], Case]] = {
    "one block per degree": lambda: make_case((0, 1), ((0,), (1,)), (5, 16, 16)),
    "one degree": lambda: make_case((2,), ((0, 5),), (3, 7, 20)),
    "the mixing of ten paths": lambda: make_case(*MIXING, (5, 8, 12)),
    "blocks in any order, degrees too": lambda: make_case((1, 0), ((7, 1, 4), (10, 0)), (4, 6, 5)),
    "rows that nobody reads": lambda: make_case((0, 1), ((1,), (3,)), (4, 6, 5), rows=9),
    "one channel": lambda: make_case((0, 1), ((0, 1), (2, 5)), (4, 1, 1)),
    "odd channels, more than one tile of them": lambda: make_case((0, 1), ((0, 1), (2,)), (3, 33, 67)),
    "many channels in": lambda: make_case((0, 1), ((0,), (1,)), (2, 200, 16)),
    "more rows than one tile": lambda: make_case((0, 1), ((0,), (1, 4)), (70, 5, 3)),
    "one atom": lambda: make_case((0, 1), ((0, 1), (2, 5)), (1, 4, 4)),
    "bias": lambda: make_case((0, 1), ((0, 1), (2, 5)), (9, 4, 5), bias=True),
    "bias, scalars last": lambda: make_case((1, 0), ((0, 3), (6,)), (5, 4, 19), bias=True),
    "bias, no atoms": lambda: make_case((0, 1), ((0,), (1,)), (0, 4, 5), bias=True),
    "species and bias": lambda: make_case((0, 1), ((0, 1), (2, 5)), (9, 4, 5), num_species=3, bias=True),
    "no atoms": lambda: make_case((0, 1), ((0, 1), (2, 5)), (0, 4, 4)),
    "species": lambda: make_case((0, 1), ((0,), (1,)), (9, 6, 5), num_species=3),
    "species, several blocks": lambda: make_case((0, 1), ((0, 1), (2, 5)), (6, 5, 17), num_species=2),
    "species, rows that nobody reads": lambda: make_case((0,), ((0,),), (6, 5, 3), num_species=2, rows=4),
    "one species is missing": lambda: make_case((0, 1), ((0,), (1,)), (9, 6, 5), num_species=4, missing=2),
    "more species than atoms": lambda: make_case((0, 1), ((0,), (1,)), (2, 3, 5), num_species=89),
    "more atoms of a species than one tile": lambda: make_case((0, 1), ((0,), (1,)), (150, 3, 2), num_species=2),
    "species, no atoms": lambda: make_case((0, 1), ((0,), (1,)), (0, 3, 5), num_species=2),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_reference_to_second_order(name: str) -> None:
    check(SHAPES[name]().run)


@pytest.mark.parametrize("num_species", [0, 2])
@pytest.mark.parametrize("cut", [(16, 16, 16, 2, 1), (64, 32, 16, 4, 2), (128, 64, 32, 4, 3)])
def test_every_way_to_cut_the_kernel(cut: tuple[int, ...], num_species: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "config", lambda *_: fused.Config(*cut))
    check(make_case((0, 1), ((0, 1), (2, 5)), (24, 20, 20), num_species=num_species).run, (torch.float32,))


@pytest.mark.parametrize(("itemsize", "matmul"), [(4, "ieee"), (4, "double"), (8, "ieee")])
def test_a_row_is_summed_alike_beside_any_number_of_others(itemsize: int, matmul: str) -> None:
    """Runs that go on from a state may have room for another number of edges."""
    cuts = {fused.config(num_rows, 64, 64, itemsize, matmul).depth for num_rows in (1, 1000, 30_000, 10**6)}
    assert len(cuts) == 1


@pytest.mark.parametrize("num_species", [0, 3])
def test_products_in_double(num_species: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tensor cores multiply float64 nothing is lost but in the rounding of the result."""
    monkeypatch.setattr(fused, "multiplies_in_double", lambda device: True)
    case = make_case((0, 1), ((0, 1), (2, 5)), (33, 64, 48), num_species=num_species, bias=True)
    for order in (0, 1):
        truth = Case(*(_rounded(part) for part in case)).run("reference", torch.float64, order=order)
        for got, want in zip(case.run("triton", torch.float32, order=order)[:2], truth, strict=False):
            assert largest(got - want) <= 1.2 * 2**-24 * largest(want)


def _rounded(part):
    """The same numbers as float32 knows them."""
    if isinstance(part, list):
        return [_rounded(tensor) for tensor in part]
    return part.float().double() if isinstance(part, Tensor) and part.is_floating_point() else part


@pytest.mark.parametrize("num_species", [0, 3])
@pytest.mark.parametrize("matmul", ROUNDED)
def test_rounded_products(matmul: str, num_species: int) -> None:
    if matmul == "bf16" and not CUDA:
        pytest.skip("Triton's interpreter multiplies the bit patterns of bfloat16")
    case = make_case((0, 1), ((0, 1), (2, 5)), (33, 64, 48), num_species=num_species)
    truth = case.run("reference", torch.float64, order=1)
    for got, want in zip(case.run("triton", torch.float32, matmul, order=1), truth, strict=True):
        assert largest(got - want) <= ROUNDED[matmul] * largest(want)
    assert matmul == "tf32" or largest(case.run("triton", torch.float32, matmul, order=0)[0] - truth[0]) > 1e-5


@pytest.mark.parametrize("matmul", fused.MATMULS)
def test_float64_is_never_rounded(matmul: str) -> None:
    check_products(make_case((0, 1), ((0,), (1, 4)), (5, 16, 16)), (torch.float64,), matmul)


@pytest.mark.parametrize("num_species", [0, 2])
def test_third_derivatives(num_species: int) -> None:
    case = make_case((0, 1), ((0, 1), (2,)), (3, 2, 3), num_species=num_species)
    check(lambda *how: case.run(*how, order=3), (torch.float64,), {torch.float64: 1e-11})


@pytest.mark.parametrize("num_species", [0, 2])
def test_every_run_gives_the_same_bits(num_species: int) -> None:
    case = make_case(*MIXING, (7, 9, 5), num_species=num_species)
    assert_same_bits(*(case.run("triton", torch.float32, order=1) for _ in range(2)))


def test_rows_that_nobody_reads_may_hold_anything() -> None:
    case = make_case((0, 1), ((1,), (3,)), (4, 6, 5), rows=9)
    case.x[:, [0, 2, 6, 7, 8]] = float("nan")
    out, grad, *_ = case.run("triton", torch.float32, order=1)
    assert out.isfinite().all()
    assert not grad[:, [0, 2, 6, 7, 8]].any() and grad[:, [1, 3, 4, 5]].all()


@pytest.mark.parametrize("num_species", [0, 3])
def test_non_contiguous_inputs(num_species: int) -> None:
    case = make_case((0, 1), ((0,), (1,)), (6, 4, 3), num_species=num_species, bias=True)
    strided = Case(*spread(tuple(case)))
    assert not any(t.is_contiguous() for t in (*strided.inputs, strided.species))
    check(strided.run, (torch.float64,))
    out = case.op(case.x.requires_grad_(), *case.inputs[1:])
    (got,) = torch.autograd.grad(out, case.x, torch.ones((), dtype=torch.float64, device=DEVICE).expand_as(out))
    (want,) = torch.autograd.grad(case.op(*case.inputs, implementation="reference").sum(), case.x)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("num_species", [0, 2])
def test_only_gradients_that_are_asked_for(num_species: int) -> None:
    case = make_case((0, 1), ((0,), (1, 4)), (4, 3, 5), num_species=num_species, bias=True)
    check_only_needed_gradients(case.op, case.inputs)


@pytest.mark.parametrize("trained", [False, True])
def test_keeps_its_input_for_training_only(trained: bool) -> None:
    case = make_case((0, 1), ((0, 1), (2, 5)), (4, 3, 5))
    x, kept = case.x.requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        case.op(x, *(weight.requires_grad_(trained) for weight in case.weights))
    assert (x.data_ptr() in kept) == trained


@pytest.mark.parametrize("num_species", [0, 2])
def test_opcheck(num_species: int) -> None:
    case = make_case((0, 1), ((0,), (2, 5)), (4, 3, 5), rows=8, num_species=num_species, bias=True)
    blocks = fused.Layout.describe(case.degrees, case.starts)
    by_species = (None, None) if case.groups is None else (case.groups.order_N, case.groups.tiles_T3)
    weights = [weight.clone().requires_grad_() for weight in case.weights]
    for mirrored in (False, True):
        rows = num_components(case.degrees) if mirrored else 8
        x = torch.randn(4, rows, 5 if mirrored else 3, dtype=torch.float64, device=DEVICE).requires_grad_()
        bias = (None, None) if mirrored else (case.bias.requires_grad_(), case.species)
        torch.library.opcheck(fused._mixed, (x, weights, *by_species, *bias, blocks, 8, mirrored, "ieee"))


class Op(torch.nn.Module):
    """The op with fixed blocks, as a model holds it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.blocks, self.groups, self.species = (case.degrees, case.starts), case.groups, case.species

    def forward(self, x: Tensor, first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
        if self.groups is None:
            return kernels.path_linear(x, [first, second], *self.blocks, "ieee", bias, self.species, "triton")
        return kernels.species_path_linear(x, [first, second], *self.blocks, self.groups, "ieee", bias, "triton")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("num_species", [0, 2])
@pytest.mark.filterwarnings("ignore")
def test_compile_and_export(num_species: int, dynamic: bool) -> None:
    case = make_case((0, 1), ((0,), (1, 4)), (5, 4, 6), num_species=num_species, bias=True)
    check_compile_and_export(Op(case), case.inputs, dynamic=dynamic)


def test_asking_for_what_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case((0, 1), ((0,), (1,)), (3, 4, 5))
    with pytest.raises(ValueError, match="Unknown implementation 'magic' of path_linear"):
        case.op(*case.inputs, implementation="magic")
    with pytest.raises(ValueError, match="float64 on .* and torch.float32 on"):
        case.op(case.x, *(weight.float() for weight in case.weights))
    for implementation in ("reference", "triton"):
        with pytest.raises(AssertionError, match="'fp8' is none of"):
            case.op(*case.inputs, implementation=implementation, matmul="fp8")
    with pytest.raises(AssertionError, match="share rows"):
        case._replace(starts=((1,), (1,))).op(*case.inputs)
    with pytest.raises(AssertionError, match="behind the last row"):
        case._replace(starts=((0,), (2,))).op(*case.inputs)
    if not CUDA:
        monkeypatch.setattr("mosso.kernels.fused.INTERPRETED", False)
        with pytest.raises(ValueError, match="runs on CUDA devices, and its inputs are on cpu"):
            case.op(*case.inputs)
    chosen = dispatch.ON_CUDA["path_linear"] if CUDA else "reference"
    assert torch.equal(case.op(*case.inputs, implementation="auto"), case.op(*case.inputs, implementation=chosen))
