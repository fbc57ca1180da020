"""Counts of operations and bytes."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mosso import kernels
from mosso.bench.cases import MP0_MEDIUM
from mosso.bench.limits import Cost, Size, _products_of_path, costs, limits_table
from mosso.bench.profile.anatomy import COUNTED_IN
from mosso.bench.profile.subject import Subject, potential_of, structures_of
from mosso.bench.rates import H200
from mosso.math.coupling import contraction_table, convolution_paths, symmetric_coupling

SIZE = Size(atoms=1000, edges=158_000, species=1, intervals=1024)


def by_name(size: Size = SIZE) -> dict[tuple[str, str], Cost]:
    return {(cost.op, cost.direction): cost for cost in costs(MP0_MEDIUM, size)}


def test_known_counts() -> None:
    found = by_name()
    assert found["contraction 0", "forward"].flops == 2 * 604 * 1000 * 128
    # docs/kernels.md: 124 and 266, of which 30 and 60 for the cubics
    assert found["convolution 1", "forward"].flops == 2 * 124 * 158_000 * 128
    assert found["convolution 1", "backward"].flops == 2 * 266 * 158_000 * 128
    assert found["convolution 1", "forward"].bytes == 158_000 * (16 * 4 + 12) + 4 * 1000 * (4 + 40) * 128 + 256 * 10 * 4 * 128 * 4
    halves = by_name(replace(SIZE, coarse_word=2))["convolution 1", "forward"]
    assert found["convolution 1", "forward"].gathered - halves.gathered == 158_000 * 10 * 4 * 128 * 2
    assert by_name(replace(SIZE, coarse_word=2))["convolution 1", "backward"] == found["convolution 1", "backward"]
    assert found["mix 1", "forward"].flops == 2 * 1000 * 40 * 128**2
    assert found["mix 1", "forward"].bytes == 4 * (1000 * (40 + 16) * 128 + 10 * 128**2)
    assert found["folded up 1", "forward"].bytes == 4 * (2 * 1000 * 4 * 128 + 2 * 128**2)
    assert found["product 0", "forward"].bytes == 4 * (2 * 1000 * 128 + 128**2)  # scalars alone are asked for
    assert (
        by_name(replace(SIZE, intervals=None))["product 0", "forward"].bytes
        == by_name(replace(SIZE, intervals=None))["up 1", "forward"].bytes
    )
    assert found["residual 1", "forward"].bytes == 4 * (2 * 1000 * 128 + 128**2)
    assert len(found) == sum(1 for _ in costs(MP0_MEDIUM, SIZE))


def test_edges_cost_where_edges_are() -> None:
    small, large = by_name(), by_name(Size(1000, 316_000, 1, 1024))
    assert large["convolution 1", "backward"].flops == 2 * small["convolution 1", "backward"].flops
    assert large["product 0", "forward"] == small["product 0", "forward"]


def test_the_larger_of_two_limits_counts() -> None:
    cost = Cost("op", "forward", flops=67e12, bytes=8.4e12)
    assert cost.microseconds(H200) == pytest.approx(2e6)
    assert cost.bound(H200) == "memory"
    assert limits_table(MP0_MEDIUM, SIZE).count("\n") == len(by_name()) + 2


def test_stock_form_runs_radial_networks_on_every_edge() -> None:
    found = by_name(replace(SIZE, intervals=None))
    assert found["radial network 1", "forward"].flops == 2 * 158_000 * (10 * 64 + 64 * 64 * 2 + 64 * 10 * 128)
    assert found["radial network 0", "backward"].bytes == 4 * (158_000 * (2 * 10 + 4 * 128) + 10 * 64 + 64 * 64 * 2 + 64 * 4 * 128)
    assert found["convolution 1", "forward"].flops == 2 * 98 * 158_000 * 128
    assert found["convolution 1", "forward"].bytes > 4 * 158_000 * 10 * 128
    assert ("radial moments", "forward") not in found
    assert found["contraction 0", "forward"] == by_name()["contraction 0", "forward"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matrix_products_are_those_that_torch_counts(tiny: None, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Every linear op of a real evaluation, run again under torch's own counter, and so its derivative by the features."""
    potential = potential_of("mace-mp0-medium", "cpu", "fp32" if dtype == torch.float32 else "fp64")
    subject = Subject.of(potential, structures_of("W24"), stress=False)
    counted = Counter[tuple[str, str]]()

    def counting(name: str) -> Callable[..., Tensor]:
        op = getattr(kernels, name)

        def call(x: Tensor, *rest: Any, **named: Any) -> Tensor:
            again = x.detach().requires_grad_()
            with torch.enable_grad():
                with FlopCounterMode(display=False) as forward:
                    y = op(again, *rest, **named)
                with FlopCounterMode(display=False) as backward:
                    torch.autograd.grad(y.sum(), again)
            counted[name, "forward"] += forward.get_total_flops()
            counted[name, "backward"] += backward.get_total_flops()
            return y.detach()

        return call

    for name in ("path_linear", "species_path_linear", "radial_mlp"):
        monkeypatch.setattr(kernels, name, counting(name))
    with torch.no_grad():
        potential.evaluate(subject.batch, subject.graph, forces=False)
    expected = Counter[tuple[str, str]]()
    for cost in subject.costs():
        for op in COUNTED_IN[cost.op.rstrip(" 0123456789")][1]:
            expected[op, cost.direction] += round(cost.flops)
    # the reference pads the atoms of each species to those of the most frequent: 16 of hydrogen, and as many of 8 oxygen
    for direction in ("forward", "backward"):
        expected["species_path_linear", direction] = round(expected["species_path_linear", direction] * 32 / 24)
    assert counted == {key: expected[key] for key in counted}
    assert len(counted) == 6 and all(counted.values())


def products(lines: Iterable[str]) -> int:
    """Products of numbers in generated code: not those of addresses, and not constants times the coordinate of a table."""
    stored = (line.partition(", ")[2] if "tl.store(" in line else line for line in lines)
    numbers = (re.sub(r"\((2.0|1.5) \* t_0\)", "t", line) for line in stored if "CHANNELS" not in line and "tl." not in line)
    return sum(line.count(" * ") for line in numbers)


@pytest.mark.parametrize(("degrees", "max_ell"), [((0,), 1), ((0,), 3), ((0, 1), 1), ((0, 1), 3), ((0, 1, 2), 2), ((0, 1, 2), 3)])
@pytest.mark.parametrize("tabulated", [False, True])
def test_products_of_edges_are_those_of_the_generated_kernels(degrees: tuple[int, ...], max_ell: int, tabulated: bool) -> None:
    generated = pytest.importorskip("mosso.kernels.fused.edge_convolution_source")
    paths = convolution_paths(degrees, max_ell)
    table = generated.PathTable.parse(generated.PathTable.describe(degrees, paths), (max_ell + 1) ** 2)
    every_path = 10**6  # is coupled outside of the loop over edges
    weights = generated.Tabulated() if tabulated else generated.STORED
    forward = generated.forward_source(table, weights, 1, every_path, False)
    backward = generated.backward_source(table, weights, 1, every_path, False, 4, False)
    loops = [re.search(r"\n    for edge .*\n((?: {8}.*\n|\n)+)", source) for source in (forward, backward)]
    found = tuple(products(found.group(1).splitlines()) for found in loops if found)
    assert found == tuple(np.sum([_products_of_path(path, tabulated) for path in paths], axis=0))


@pytest.mark.parametrize(("max_ell", "degrees", "correlation"), [(1, (0,), 2), (1, (0, 1), 3), (2, (0, 1), 3), (3, (0,), 3), (2, (0,), 4)])
def test_products_of_atoms_are_those_of_the_generated_kernels(max_ell: int, degrees: tuple[int, ...], correlation: int) -> None:
    generated = pytest.importorskip("mosso.kernels.fused.symmetric_contraction_source")
    hidden = "+".join(f"8x{degree}{'eo'[degree % 2]}" for degree in degrees)
    spec = replace(MP0_MEDIUM, max_ell=max_ell, hidden_irreps=hidden, correlation=(correlation, correlation))
    found = {(cost.op, cost.direction): cost.flops for cost in costs(spec, Size(1, 0, 1, None))}
    table = contraction_table([[symmetric_coupling(max_ell, degree, nu) for nu in range(1, correlation + 1)] for degree in degrees])
    polynomial = generated.Polynomial.parse(table.text)
    assert found["contraction 0", "forward"] == 2 * 8 * products(generated.forward_source(polynomial).splitlines())
    assert found["contraction 0", "backward"] == 2 * 8 * products(generated.gradient_source(polynomial, False).splitlines())


def test_numbers_twice_as_long_move_twice_as_much() -> None:
    single, double = by_name()["mix 1", "forward"], by_name(replace(SIZE, word=8))["mix 1", "forward"]
    assert double.flops == single.flops
    assert double.bytes == 2 * single.bytes


def test_first_layer_of_many_species_is_a_convolution() -> None:
    few, many = (by_name(replace(SIZE, species=count)) for count in (16, 17))
    assert ("radial moments", "forward") in few and ("convolution 0", "forward") not in few
    assert ("radial moments", "forward") not in many and ("up 0", "forward") not in many
    # of degree 0: a cubic and its path for each of four degrees, and the harmonics but the first times it
    assert many["convolution 0", "forward"].flops == 2 * (4 * 3 + 1 + 3 + 5 + 7 + 3) * 158_000 * 128


def test_layers_without_residual_mix_messages_by_species() -> None:
    plain = replace(MP0_MEDIUM, interactions=("RealAgnostic", "RealAgnosticResidual"))
    found = {(cost.op, cost.direction) for cost in costs(plain, SIZE)}
    assert ("by species 0", "forward") in found
    assert ("by species 1", "forward") not in found
