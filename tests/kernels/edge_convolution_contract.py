"""The fused edge convolution against its reference: the contract every fused op is held to.

Runs on the GPU where there is one, else under Triton's interpreter, for which TRITON_INTERPRET has to be set before
anything imports triton: test_edge_convolution.py starts it in a process of its own.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from mosso import kernels
from mosso.kernels import dispatch
from mosso.kernels.fused import edge_convolution as fused
from mosso.math.coupling import CouplingPath, convolution_paths

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what the reference needs in deterministic mode
FLOOR = {torch.float32: 1e-6, torch.float64: 1e-13}  # relative to the largest number of the result
assert fused.INTERPRETED is not CUDA, "set TRITON_INTERPRET=1 where there is no CUDA device, and only there"


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """New tensors start as NaN, so that a number nobody wrote cannot pass."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(4, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


class Case(NamedTuple):
    """A problem: tensors in float64, edges, table."""

    x: Tensor
    harmonics: Tensor
    weights: Tensor
    edges: tuple[Tensor, ...]
    degrees_in: tuple[int, ...]
    paths: tuple[CouplingPath, ...]

    def run(self, implementation: str, dtype: torch.dtype, order: int = 2) -> list[Tensor]:
        """The output and its derivatives up to ``order``, in float64 for comparison."""
        inputs = [t.to(dtype, copy=True).requires_grad_() for t in self[:3]]
        out = kernels.edge_convolution(*inputs, *self.edges, self.degrees_in, self.paths, implementation=implementation)
        results, new = [out], [out]
        for depth in range(order):
            loss = sum((t * cotangent(t, seed=i)).sum() for i, t in enumerate(new))
            new = list(torch.autograd.grad(loss, inputs, create_graph=depth + 1 < order))
            results += new
            # squares, so that the next derivative depends on every argument again
            new = [t * t for t in new]
        return [result.detach().double() for result in results]


def cotangent(like: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 7)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def make_case(
    degrees_in: tuple[int, ...], max_ell: int, nodes: int, edges: int, channels: int, *, padding: int = 0, same: bool = False
) -> Case:  # fmt: skip
    """Random tensors on random edges; ``same`` puts every edge on atom 0 of many."""
    generator = torch.Generator().manual_seed(nodes + edges + channels)
    senders, receivers = torch.randint(1 if same else max(nodes, 1), (2, edges), generator=generator)
    receivers = receivers.sort().values
    offsets = [
        torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(rows, minlength=nodes).cumsum(0)]) for rows in (receivers, senders)
    ]
    transpose = torch.cat([torch.argsort(senders, stable=True), torch.arange(edges, edges + padding)])
    last = torch.full((padding,), max(nodes - 1, 0))
    senders, receivers = torch.cat([senders, last]), torch.cat([receivers, last])
    paths = convolution_paths(degrees_in, max_ell)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE)

    return Case(
        rand(nodes, sum(2 * d + 1 for d in degrees_in), channels),
        rand(edges + padding, (max_ell + 1) ** 2),
        rand(edges + padding, len(paths), channels),
        tuple(t.to(DEVICE) for t in (senders, receivers, offsets[0], transpose, offsets[1])),
        degrees_in,
        paths,
    )


def check(case: Case, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)) -> None:
    """At most twice the error the reference itself makes in a dtype, or that dtype's floor."""
    truth = case.run("reference", torch.float64)
    for dtype in dtypes:
        reference = case.run("reference", dtype)
        for i, (got, plain, want) in enumerate(zip(case.run("triton", dtype), reference, truth, strict=True)):
            assert got.shape == want.shape
            if want.numel():
                allowed = max(2 * float((plain - want).abs().max()), FLOOR[dtype] * float(want.abs().max()))
                assert float((got - want).abs().max()) <= allowed, f"result {i} in {dtype}"


SHAPES: dict[str, Callable[[], Case]] = {
    "two degrees": lambda: make_case((0, 1), 2, 3, 7, 5),
    "scalars, max_ell 3": lambda: make_case((0,), 3, 3, 6, 4),
    "three degrees": lambda: make_case((0, 1, 2), 2, 2, 3, 3),
    "degree one alone": lambda: make_case((1,), 1, 3, 5, 2),
    "two blocks of channels, the second odd": lambda: make_case((0, 1), 1, 2, 4, 33),
    "more than one block in the forward pass": lambda: make_case((0,), 1, 2, 3, 131),
    "no edges": lambda: make_case((0, 1), 1, 3, 0, 2),
    "no atoms": lambda: make_case((0, 1), 1, 0, 0, 2),
    "one atom, its own neighbour": lambda: make_case((0, 1), 1, 1, 4, 1),
    "every edge on one atom": lambda: make_case((0, 1), 1, 4, 19, 2, same=True),
    "padding": lambda: make_case((0, 1), 1, 3, 5, 3, padding=4),
    "padding only": lambda: make_case((0, 1), 1, 2, 0, 3, padding=3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_equals_the_reference_to_second_order(name: str) -> None:
    check(SHAPES[name]())


@pytest.mark.parametrize(("step", "max_sums", "ahead"), [(2, 128, False), (1, 0, False), (2, 30, True), (3, 0, False), (1, 128, True)])
def test_every_way_to_cut_the_kernel(step: int, max_sums: int, ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "config", lambda direction, *_: fused.Config(32, 1, step, max_sums, ahead))
    check(make_case((0, 1), 2, 2, 5, 3, padding=1), (torch.float64,))


def test_third_derivatives() -> None:
    case = make_case((0, 1), 1, 2, 3, 2)
    for got, want in zip(case.run("triton", torch.float64, 3), case.run("reference", torch.float64, 3), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11 * float(want.abs().max()))


def test_every_run_gives_the_same_bits() -> None:
    case = make_case((0, 1), 1, 3, 12, 3)
    for first, second in zip(case.run("triton", torch.float32), case.run("triton", torch.float32), strict=True):
        assert torch.equal(first, second)


def test_padding_gets_zero_gradients() -> None:
    case = make_case((0, 1), 1, 3, 5, 3, padding=4)
    for implementation in ("reference", "triton"):
        _, _, *of_edges = case.run(implementation, torch.float32, order=1)
        assert all(not grad[5:].any() and grad[:5].all() for grad in of_edges)


def test_non_contiguous_inputs() -> None:
    case = make_case((0, 1), 1, 3, 6, 4)
    strided = [t.transpose(0, t.ndim - 1).contiguous().transpose(0, t.ndim - 1) for t in case[:3]]
    edges = tuple(torch.stack([t, t], dim=1)[:, 0] for t in case.edges)
    assert not any(t.is_contiguous() for t in (*strided, *edges))
    check(Case(*strided, edges, case.degrees_in, case.paths), (torch.float64,))


def test_only_gradients_that_are_asked_for() -> None:
    case = make_case((0, 1), 1, 2, 4, 2)
    whole = case.run("triton", torch.float64, order=1)[1:]
    for needed in itertools.product([True, False], repeat=3):
        inputs = [t.clone().requires_grad_(need) for t, need in zip(case[:3], needed, strict=True)]
        if any(needed):
            out = kernels.edge_convolution(*inputs, *case.edges, case.degrees_in, case.paths, implementation="triton")
            out.backward(cotangent(out))
        for t, want, need in zip(inputs, whole, needed, strict=True):
            assert torch.equal(t.grad, want) if need else t.grad is None


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
    op, inputs = Op(case), [t.clone().requires_grad_() for t in case[:3]]
    want = op(*inputs, case.edges)
    compiled = torch.compile(op, backend="inductor" if CUDA else "aot_eager", fullgraph=True, dynamic=dynamic)
    got = compiled(*inputs, case.edges)
    torch.testing.assert_close(got, want)
    for ours, theirs in zip(
        torch.autograd.grad((got**2).sum(), inputs), torch.autograd.grad((want**2).sum(), inputs), strict=True
    ):  # fmt: skip
        torch.testing.assert_close(ours, theirs)
    plain = [t.detach() for t in inputs]
    exported = torch.export.export(op, (*plain, case.edges))
    torch.testing.assert_close(exported.module()(*plain, case.edges), want)


def test_asking_for_what_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case((0,), 1, 2, 3, 2)

    def run(implementation: str, weights: Tensor = case.weights, paths: Any = case.paths) -> Tensor:
        return kernels.edge_convolution(case.x, case.harmonics, weights, *case.edges, case.degrees_in, paths, implementation=implementation)

    with pytest.raises(ValueError, match="Unknown implementation 'cuda'"):
        run("cuda")
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
    asm, constraints = fused.generated.warp_sum_asm(count, itemsize)
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
