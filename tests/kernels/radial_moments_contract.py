"""The fused radial moments against their reference.

Runs on the GPU where there is one, else under Triton's interpreter, for which TRITON_INTERPRET has to be set before
anything imports triton: test_contracts.py starts it in a process of its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from kernels.contract import BOTH, DEVICE, assert_same_bits, check, check_compile_and_export, cotangent, derivatives, random_rows, spread
from torch import Tensor

from mosso import kernels
from mosso.kernels.fused import radial_moments as fused

pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Case(NamedTuple):
    """A problem, real numbers in float64."""

    features: Tensor
    rows: Tensor
    table: Tensor
    species: Tensor
    num_species: int
    senders: Tensor
    receivers: Tensor
    receiver_offsets: Tensor

    def op(self, features: Tensor, implementation: str = "triton") -> Tensor:
        return kernels.radial_moments(features, self.rows, self.table.to(features), *self[3:], implementation=implementation)

    def run(self, implementation: str, dtype: torch.dtype) -> list[Tensor]:
        """The moments and the gradient of the features."""
        features = self.features.to(dtype)
        if implementation == "reference":
            features = features.nan_to_num()  # it multiplies what padding holds by zero
        return derivatives(lambda features: self.op(features, implementation), [features], order=1)


def make_case(
    nodes: int, edges: int, num_species: int = 1, num_radial: int = 5, num_features: int = 16, *, padding: int = 0, same: bool = False
) -> Case:  # fmt: skip
    """Random tensors on random edges; ``same`` puts every edge into atom 0 of many. What padding edges hold is NaN."""
    generator = torch.Generator().manual_seed(nodes + edges + num_radial)
    neighbors = random_rows(generator, nodes, edges, padding=padding, num_receivers=1 if same else None)
    intervals = 11
    features = torch.randn(edges + padding, num_features, generator=generator, dtype=torch.float64)
    features[:, 0] = torch.rand(edges + padding, generator=generator, dtype=torch.float64)
    features[edges:] = torch.nan
    table = torch.randn(intervals + 1, 4, num_radial, generator=generator, dtype=torch.float64)
    table[intervals] = 0.0
    rows = torch.randint(intervals + 1, (edges + padding,), generator=generator, dtype=torch.int32)
    species = torch.randint(num_species, (nodes,), generator=generator)
    return Case(*(t.to(DEVICE) for t in (features, rows, table, species)), num_species, *neighbors[:3])


def check_moments(case: Case, dtypes: tuple[torch.dtype, ...] = BOTH) -> None:
    """The rule for errors; gradients of padding are zero."""
    real = int(case.receiver_offsets[-1])
    for _, gradient in check(case.run, dtypes):
        assert not gradient[real:].any()


SHAPES: dict[str, Callable[[], Case]] = {
    "one species": lambda: make_case(3, 20),
    "four species, 64 functions": lambda: make_case(3, 60, 4, 64),
    "ten species": lambda: make_case(2, 24, 10, 3),
    "more edges than a tile": lambda: make_case(2, 90, 2, 17),
    "one function": lambda: make_case(3, 9, 2, 1),
    "degrees up to 1": lambda: make_case(3, 12, 2, 8, 4),
    "degrees up to 4": lambda: make_case(2, 12, 1, 6, 25),
    "no edges": lambda: make_case(3, 0, 2),
    "no atoms": lambda: make_case(0, 0, 2),
    "one atom, its own neighbour": lambda: make_case(1, 4),
    "every edge on one atom": lambda: make_case(4, 37, 2, same=True),
    "padding": lambda: make_case(3, 20, 2, padding=45),
    "padding only": lambda: make_case(2, 0, 3, padding=5),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_reference(name: str) -> None:
    check_moments(SHAPES[name]())


@pytest.mark.parametrize("in_double", [False, True])
@pytest.mark.parametrize("tile", [16, 32])
def test_every_way_to_cut_the_kernel(tile: int, in_double: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "config", lambda *_: fused.Config(tile, 4, 1, in_double))
    check_moments(make_case(3, 70, 2, padding=3), (torch.float32,))


@pytest.mark.parametrize("many", [0, 10**9])
def test_products_in_double(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where tensor cores multiply float64 the gradient is made so, whether groups are many or few."""
    monkeypatch.setattr(fused, "multiplies_in_double", lambda device: True)
    monkeypatch.setattr(fused, "MANY_GROUPS", many)
    assert fused.config("backward", 5, 4, True).in_double
    check_moments(make_case(3, 70, 2, padding=3), (torch.float32,))


def test_every_run_gives_the_same_bits() -> None:
    case = make_case(3, 40, 2)
    assert_same_bits(case.run("triton", torch.float32), case.run("triton", torch.float32))


def test_non_contiguous_inputs() -> None:
    case = spread(make_case(3, 20, 2))
    assert not any(t.is_contiguous() for t in case if isinstance(t, Tensor))
    check_moments(case, (torch.float64,))


def test_second_derivatives_point_to_the_reference() -> None:
    case = make_case(3, 20)
    features = case.features.clone().requires_grad_()
    (grad,) = torch.autograd.grad(case.op(features).square().sum(), features, create_graph=True)
    with pytest.raises(ValueError, match="the reference implementation gives the second"):
        grad.sum().backward()


def test_opcheck() -> None:
    case = make_case(3, 20, 2, padding=1)
    features = case.features.nan_to_num().requires_grad_()
    edges = (case.species, case.num_species, case.senders, case.receiver_offsets, "")
    torch.library.opcheck(fused._groups, edges, test_utils=("test_schema", "test_faketensor"))  # places of padding hold anything
    arguments = (features, case.rows, case.table, *fused._groups(*edges), case.num_species, "")
    torch.library.opcheck(fused._forward, arguments)
    g = cotangent(fused._forward(*arguments).detach())
    torch.library.opcheck(fused._backward, (g, features.detach(), *arguments[1:]))


def test_groups_list_every_edge_once() -> None:
    case = make_case(5, 300, 3, padding=4)
    order, offsets = fused._groups(case.species, case.num_species, case.senders, case.receiver_offsets, "")
    groups = case.receivers[:300] * case.num_species + case.species[case.senders[:300]]
    assert order[:300].tolist() == torch.argsort(groups, stable=True).tolist()
    assert offsets.tolist() == [int((groups < group).sum()) for group in range(5 * case.num_species + 1)]


class Op(torch.nn.Module):
    """The op with a fixed number of species, as a model holds it."""

    def forward(self, features: Tensor, rows: Tensor, table: Tensor, species: Tensor, edges: tuple[Tensor, ...]) -> Tensor:
        return kernels.radial_moments(features, rows, table, species, 2, *edges, implementation="triton")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_compile_and_export(dynamic: bool) -> None:
    case = make_case(3, 20, 2)
    check_compile_and_export(Op(), [case.features], (case.rows, case.table, case.species, case[5:]), dynamic)


def test_asking_for_what_cannot_run() -> None:
    case = make_case(3, 5)
    with pytest.raises(ValueError, match="float64 on .* and torch.float32 on"):
        kernels.radial_moments(case.features, case.rows, case.table.float(), *case[3:], implementation="triton")
