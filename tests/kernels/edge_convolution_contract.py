"""The fused edge convolution against its reference: the contract every fused op is held to.

Runs on the GPU where there is one, else under Triton's interpreter, for which TRITON_INTERPRET has to be set before
anything imports triton: test_contracts.py starts it in a process of its own.
"""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from kernels.contract import (
    CUDA,
    DEVICE,
    assert_same_bits,
    check,
    check_compile_and_export,
    check_only_needed_gradients,
    cotangent,
    derivatives,
    random_rows,
    spread,
)
from kernels.convolution_cases import CUTS, SIZES
from torch import Tensor

from mosso import kernels
from mosso.kernels import dispatch
from mosso.kernels.fused import edge_convolution as fused
from mosso.kernels.fused.warp_sum import warp_sum_asm
from mosso.math.coupling import CouplingPath, convolution_paths

pytestmark = pytest.mark.usefixtures("poisoned_memory")


class Case(NamedTuple):
    """A problem: tensors in float64, edges, table."""

    x: Tensor
    harmonics: Tensor
    weights: Tensor
    edges: tuple[Tensor, ...]
    degrees_in: tuple[int, ...]
    paths: tuple[CouplingPath, ...]

    def op(self, x: Tensor, harmonics: Tensor, weights: Tensor, implementation: str = "triton") -> Tensor:
        return kernels.edge_convolution(x, harmonics, weights, *self.edges, self.degrees_in, self.paths, implementation=implementation)

    def run(self, implementation: str, dtype: torch.dtype, order: int = 2) -> list[Tensor]:
        """The output and its derivatives up to ``order``."""
        return derivatives(lambda *inputs: self.op(*inputs, implementation), [t.to(dtype) for t in self[:3]], order)


def make_case(
    degrees_in: tuple[int, ...], max_ell: int, nodes: int, edges: int, channels: int, padding: int = 0, same: bool = False
) -> Case:  # fmt: skip
    """Random tensors on random edges; ``same`` puts every edge on atom 0 of many."""
    generator = torch.Generator().manual_seed(nodes + edges + channels)
    atoms = 1 if same else None
    rows = random_rows(generator, nodes, edges, padding=padding, num_senders=atoms, num_receivers=atoms)
    paths = convolution_paths(degrees_in, max_ell)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)

    return Case(
        rand(nodes, sum(2 * d + 1 for d in degrees_in), channels),
        rand(edges + padding, (max_ell + 1) ** 2),
        rand(edges + padding, len(paths), channels),
        rows,
        degrees_in,
        paths,
    )


@pytest.mark.parametrize("name", SIZES)
def test_equals_the_reference_to_second_order(name: str) -> None:
    check(make_case(*SIZES[name]).run)


@pytest.mark.parametrize(("step", "max_sums", "ahead"), CUTS)
def test_every_way_to_cut_the_kernel(step: int, max_sums: int, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "config", lambda direction, *_: fused.Config(32, 1, step, max_sums, ahead))
    check(make_case((0, 1), 2, 2, 5, 3, padding=1).run, (torch.float64,))


def test_third_derivatives() -> None:
    case = make_case((0, 1), 1, 2, 3, 2)
    check(lambda *how: case.run(*how, order=3), (torch.float64,), {torch.float64: 1e-11})


def test_every_run_gives_the_same_bits() -> None:
    case = make_case((0, 1), 1, 3, 12, 3)
    assert_same_bits(case.run("triton", torch.float32), case.run("triton", torch.float32))


def test_padding_gets_zero_gradients() -> None:
    case = make_case((0, 1), 1, 3, 5, 3, padding=4)
    for implementation in ("reference", "triton"):
        _, _, *of_edges = case.run(implementation, torch.float32, order=1)
        assert all(not grad[5:].any() and grad[:5].all() for grad in of_edges)


def test_non_contiguous_inputs() -> None:
    case = spread(make_case((0, 1), 1, 3, 6, 4))
    assert not any(t.is_contiguous() for t in (*case[:3], *case.edges))
    check(case.run, (torch.float64,))


def test_only_gradients_that_are_asked_for() -> None:
    case = make_case((0, 1), 1, 2, 4, 2)
    check_only_needed_gradients(case.op, case[:3])


def test_opcheck() -> None:
    case = make_case((0, 1), 1, 3, 5, 2, padding=1)
    tensors = [t.clone().requires_grad_() for t in case[:3]]
    senders, _, *others = case.edges
    table = fused.PathTable.describe(case.degrees_in, case.paths)
    torch.library.opcheck(fused._forward, (*tensors, senders, *others, table))
    g = cotangent(fused._forward(*tensors, senders, *others, table)).requires_grad_()
    torch.library.opcheck(fused._backward, (g, *tensors, senders, *others, table, [True, True, True]))
    torch.library.opcheck(fused._backward, (g, *tensors, senders, *others, table, [False, True, False]))


class Op(torch.nn.Module):
    """The op with a fixed table, as a model holds it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.degrees_in, self.paths = case.degrees_in, case.paths

    def forward(self, x: Tensor, harmonics: Tensor, weights: Tensor, edges: tuple[Tensor, ...]) -> Tensor:
        return kernels.edge_convolution(x, harmonics, weights, *edges, self.degrees_in, self.paths, implementation="triton")


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_compile_and_export(dynamic: bool) -> None:
    case = make_case((0, 1), 1, 3, 6, 2)
    check_compile_and_export(Op(case), case[:3], (case.edges,), dynamic)


def test_asking_for_what_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case((0,), 1, 2, 3, 2)

    def run(implementation: str, weights: Tensor = case.weights, paths: Any = case.paths) -> Tensor:
        return kernels.edge_convolution(case.x, case.harmonics, weights, *case.edges, case.degrees_in, paths, implementation=implementation)

    with pytest.raises(ValueError, match="Unknown implementation 'magic'"):
        run("magic")
    with pytest.raises(ValueError, match="float64 on .* and torch.float32 on"):
        run("triton", case.weights.float())
    scaled = [CouplingPath(p.l_in, p.l_edge, p.l_out, -0.3) for p in case.paths]
    torch.testing.assert_close(run("triton", paths=scaled), run("reference", paths=scaled))
    if not CUDA:
        monkeypatch.setattr("mosso.kernels.fused.INTERPRETED", False)
        with pytest.raises(ValueError, match="runs on CUDA devices, and its inputs are on cpu"):
            run("triton")
        monkeypatch.setattr("mosso.kernels.dispatch.HAS_TRITON", False)
        with pytest.raises(ValueError, match="triton is not installed"):
            run("triton")
    assert torch.equal(run("auto"), run(dispatch.ON_CUDA["edge_convolution"] if CUDA else "reference"))


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("count", [1, 4, 9, 16, 25])
def test_sums_over_a_warp(count: int, itemsize: int) -> None:
    """The PTX executed here, one instruction at a time on 32 lanes."""
    asm, constraints = warp_sum_asm(count, itemsize)
    assert len(constraints.split(",")) == count + 1
    values = np.random.default_rng(0).integers(-8, 8, (count, 32)).astype(float)
    state: dict[str, Any] = {f"${q + 1}": row for q, row in enumerate(values)} | {"%laneid": np.arange(32)}
    state |= {"0f00000000": np.zeros(32), "0d0000000000000000": np.zeros(32)}
    read = lambda name: state[name] if name in state else int(name, 0)  # noqa: E731
    for line in asm.strip("{} ").split(";"):
        operation, _, rest = line.strip().partition(" ")
        if not operation or operation == ".reg":
            continue
        if "{" in rest:  # two halves of a double: kept whole in one of them
            left, right = (part.strip(" {}") for part in rest.replace("low, high", "low").split(",", 1))
            state[left] = read(right)
            continue
        target, *sources = (name.strip() for name in rest.split(","))
        kind = operation.split(".")[0]
        if kind == "mov":
            state[target] = read(sources[0])
        elif kind == "and":
            state[target] = read(sources[0]) & read(sources[1])
        elif kind == "setp":
            state[target] = read(sources[0]) != 0
        elif kind == "selp":
            state[target] = np.where(read(sources[2]), read(sources[0]), read(sources[1]))
        elif kind == "add":
            state[target] = read(sources[0]) + read(sources[1])
        elif target != "high":
            assert kind == "shfl"
            state[target] = read(sources[0])[np.arange(32) ^ int(sources[1])]
    width = 1 << (count - 1).bit_length()
    want = np.concatenate([values.sum(1), np.zeros(width - count)])[np.arange(32) * width // 32]
    assert (state["$0"] == want).all()
