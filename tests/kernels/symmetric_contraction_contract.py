"""The kernel contract of the fused symmetric contraction: on a CUDA device, or under Triton's interpreter on the CPU.

Started by test_contracts.py in a process of its own. The reference is not held to deterministic mode here.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from kernels.contract import BOTH, DEVICE, assert_same_bits, check, check_compile_and_export, poisoned, spread
from torch import Tensor

from mosso.kernels import reference
from mosso.kernels.fused import symmetric_contraction as fused
from mosso.kernels.fused.symmetric_contraction_source import kernels_of
from mosso.math.coupling import ContractionTable, contraction_table, symmetric_coupling


class Case(NamedTuple):
    table: ContractionTable
    a: Tensor
    coefficients: Tensor
    species: Tensor
    g: Tensor  # cotangent of the output
    u: Tensor  # cotangents of the two gradients
    v: Tensor


def table_of(max_ell: int, degrees: tuple[int, ...], order: int) -> ContractionTable:
    return contraction_table([[symmetric_coupling(max_ell, d, nu) for nu in range(1, order + 1)] for d in degrees])


def make_case(table: ContractionTable, num_atoms: int, num_species: int, channels: int) -> Case:
    generator = torch.Generator().manual_seed(num_atoms + 7 * channels)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(DEVICE)

    species = torch.randint(num_species, (num_atoms,), generator=generator).to(DEVICE)
    a, w = (num_atoms, table.num_components, channels), (num_species, len(table.rows), channels)
    return Case(table, rand(*a), rand(*w), species, rand(num_atoms, table.num_rows, channels), rand(*a), rand(*w))


class Results(NamedTuple):
    """Output, every gradient, and every gradient of the gradients; then the same of the force alone."""

    out: Tensor
    a: Tensor
    w: Tensor
    gg: Tensor
    ga: Tensor
    gw: Tensor
    force: Tensor
    force_g: Tensor
    force_a: Tensor
    force_w: Tensor


def evaluate(op: Callable[[Tensor, Tensor], Tensor], case: Case, dtype: torch.dtype) -> Results:
    a, w, g, u, v = (x.to(dtype) for x in (case.a, case.coefficients, case.g, case.u, case.v))
    a, w, g = (x.detach().requires_grad_() for x in (a, w, g))
    out = op(a, w)
    first = torch.autograd.grad(out, (a, w), g, create_graph=True)
    both = torch.autograd.grad(first, (g, a, w), (u, v), retain_graph=True, materialize_grads=True)
    forces = torch.autograd.grad(op(a, w), a, g, create_graph=True)
    of_forces = torch.autograd.grad(forces, (g, a, w), u, materialize_grads=True)
    results = Results(out, *first, *both, *forces, *of_forces)
    assert all(result.dtype == dtype for result in results)
    return Results(*(result.detach().double() for result in results))


def by_reference(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    groups = reference.SpeciesGroups.of(case.species)
    return lambda a, w: reference.symmetric_contraction(a, w, groups, case.table)


def by_triton(case: Case, order: Tensor | None = None) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, w: fused.symmetric_contraction_triton(a, w, case.species, case.table, order)


def check_contraction(case: Case, dtypes: tuple[torch.dtype, ...] = BOTH, order: Tensor | None = None) -> None:
    def run(implementation: str, dtype: torch.dtype) -> Results:
        if implementation == "reference":
            return evaluate(by_reference(case), case, dtype)
        with poisoned():
            return evaluate(by_triton(case, order), case, dtype)

    check(run, dtypes)


@pytest.mark.parametrize(
    ("max_ell", "degrees", "order", "num_atoms", "num_species", "channels"),
    [
        (1, (0, 1), 3, 5, 3, 3),
        (2, (0, 1), 2, 3, 2, 33),
        (2, (0,), 3, 4, 2, 5),
        (1, (0,), 1, 1, 1, 1),
        (1, (0, 1), 2, 0, 2, 3),
        (1, (0,), 2, 4, 89, 2),
        (1, (0,), 2, 36, 2, 1),
    ],
)
def test_against_the_reference(max_ell: int, degrees: tuple[int, ...], order: int, num_atoms: int, num_species: int, channels: int) -> None:
    check_contraction(make_case(table_of(max_ell, degrees, order), num_atoms, num_species, channels))


def test_tiles_of_several_atoms(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many atoms take them, of one species or of two, the last tile partly empty."""
    monkeypatch.setattr(fused, "FEW_ATOMS", 0)
    for num_species in (1, 2):
        check_contraction(make_case(table_of(2, (0, 1), 2), 7, num_species, 33))


@pytest.mark.parametrize("last", [0, 3])
def test_the_order_of_atoms_changes_nothing(last: int) -> None:
    """Sorted, or sorted with a mistake in it: the bits are those of no order at all."""
    case = make_case(table_of(1, (0, 1), 2), 5, 3, 3)
    order = torch.argsort(case.species, stable=True).roll(last)
    plain, ordered = (evaluate(by_triton(case, o), case, torch.float32) for o in (None, order))
    assert_same_bits(ordered, plain)
    check_contraction(case, order=order)


def test_results_repeat_bit_for_bit() -> None:
    case = make_case(table_of(1, (0, 1), 2), 18, 2, 3)
    assert_same_bits(*(evaluate(by_triton(case), case, torch.float32) for _ in range(2)))


def test_any_polynomial() -> None:
    """A constant, a fourth power, a row without terms and a component that nothing reads."""
    factors, rows = np.array([[3, 3, 3, 3], [1, 1, 1, 1], [0, 1, 1, 3], [1, 3, 3, 3]]), np.array([0, 0, 0, 2])
    check_contraction(make_case(ContractionTable(factors, rows, (), 3, 3, "3 3;0:;0:1.1.1.1;0:0.1.1;2:1"), 5, 2, 3))


def test_a_table_has_its_terms_in_the_order_of_evaluation() -> None:
    """Any order is right; in this one, a block of coefficients is used up before the next is loaded."""
    table = table_of(2, (0, 1), 3)
    assert [t for tree in kernels_of(table.text).polynomial.rows for t in tree.terms()] == list(range(len(table.rows)))


def test_more_terms_than_one_group() -> None:
    table = table_of(2, (0, 1), 3)
    assert len(table.rows) > fused.TERMS_PER_GROUP
    check_contraction(make_case(table, 3, 2, 2), (torch.float64,))


def test_non_contiguous_inputs() -> None:
    case = make_case(table_of(1, (0, 1), 2), 6, 3, 4)
    a, w, species = spread((case.a, case.coefficients, case.species))
    g = case.g[:1, :1, :1].expand_as(case.g)
    assert not any(x.is_contiguous() for x in (a, w, species, g))
    check_contraction(case._replace(a=a, coefficients=w, species=species, g=g))


def test_derivatives_by_finite_differences() -> None:
    case = make_case(table_of(1, (0, 1), 2), 2, 2, 1)
    inputs = [x.clone().requires_grad_() for x in (case.a, case.coefficients)]
    assert torch.autograd.gradcheck(by_triton(case), inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(by_triton(case), inputs, fast_mode=True)


def test_forces_do_not_pay_for_the_coefficients(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(table_of(1, (0,), 2), 3, 2, 2)
    calls: list[str] = []
    sum_coefficients = fused.sum_coefficients
    monkeypatch.setattr(fused, "sum_coefficients", lambda name, *rest: calls.append(name) or sum_coefficients(name, *rest))
    a, w = case.a.requires_grad_(), case.coefficients.requires_grad_()
    (force,) = torch.autograd.grad(by_triton(case)(a, w).square().sum(), a, create_graph=True)
    assert calls == []
    force.square().sum().backward()
    assert "coefficients_rate" in calls


@pytest.mark.parametrize("order", [False, True])
def test_opcheck(order: bool) -> None:
    case = make_case(table_of(1, (0, 1), 2), 3, 2, 2)
    order_N = torch.argsort(case.species) if order else None
    a, w, g = (x.requires_grad_() for x in (case.a, case.coefficients, case.g))
    text, species, num_species = case.table.text, case.species, case.coefficients.shape[0]
    torch.library.opcheck(fused.contraction, (a, w, species, order_N, text, True))
    torch.library.opcheck(fused.gradient, (g, a, w, species, order_N, text))
    if not order:
        plain = [x.detach() for x in (case.u, g, a, w)]
        torch.library.opcheck(fused.second, (*plain, species, None, text))
        torch.library.opcheck(fused.coefficients, (g, a, species, num_species, text))
        torch.library.opcheck(fused.coefficients_rate, (*plain[:3], species, num_species, text))


def test_compile_and_export() -> None:
    case = make_case(table_of(1, (0, 1), 2), 5, 2, 4)

    class Module(torch.nn.Module):
        def forward(self, a: Tensor, w: Tensor) -> Tensor:
            return by_triton(case)(a, w)

    exported = check_compile_and_export(Module(), (case.a, case.coefficients), rtol=1e-13, atol=1e-13)
    assert "mosso.symmetric_contraction.default" in {str(node.target) for node in exported.graph.nodes}


def test_refusals() -> None:
    case = make_case(table_of(1, (0, 1), 2), 5, 2, 4)
    with pytest.raises(ValueError, match=r"float32 or float64"):
        by_triton(case)(case.a.half(), case.coefficients.half())
    with pytest.raises(ValueError, match=r"same format"):
        by_triton(case)(case.a.float(), case.coefficients)
    with pytest.raises(ValueError, match=r"give \(N, M, C\)"):
        by_triton(case)(case.a, case.coefficients[:, :-1])
    with pytest.raises(ValueError, match=r"made for 4"):
        by_triton(case)(case.a[:, :-1], case.coefficients)
