"""What the contracts of the fused ops share: poisoned memory, the rule for errors, random edges, the checks that are alike.

A contract hands over ``run(implementation, dtype)``, which gives the results of its op as tensors in float64. Nothing here
imports triton, so that tests can be collected where it is not installed.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mosso.engine.capture import record, warm_up
from mosso.graph.graph import Graph

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
gpu = [pytest.mark.gpu, pytest.mark.skipif(not CUDA, reason="no CUDA device")]
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what the reference needs in deterministic mode

FLOOR = {torch.float32: 1e-6, torch.float64: 1e-13}  # relative to the largest number of a result
BOTH = (torch.float32, torch.float64)
Run = Callable[[str, torch.dtype], Sequence[Tensor]]


@contextmanager
def poisoned() -> Iterator[None]:
    """New tensors start as NaN, or as the largest integer, so that a number nobody wrote cannot pass."""
    from mosso.kernels.fused import INTERPRETED

    assert INTERPRETED is not CUDA, "set TRITON_INTERPRET=1 where there is no CUDA device, and only there"
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(4, device=DEVICE).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def check(run: Run, dtypes: Sequence[torch.dtype] = BOTH, floor: dict[torch.dtype, float] = FLOOR) -> list[Sequence[Tensor]]:
    """The rule: at most twice the error the reference itself makes in a dtype, or that dtype's floor; truth is the reference in float64.

    Returns the results of triton, a sequence per dtype.
    """
    truth, found = run("reference", torch.float64), []
    names = getattr(truth, "_fields", range(len(truth)))
    for dtype in dtypes:
        found.append(run("triton", dtype))
        for name, got, plain, want in zip(names, found[-1], run("reference", dtype), truth, strict=True):
            assert got.shape == want.shape, f"result {name} in {dtype}"
            if want.numel():
                error, allowed = largest(got - want), max(2 * largest(plain - want), floor[dtype] * largest(want))
                assert error <= allowed, f"result {name} in {dtype}: error {error:.1e}, allowed {allowed:.1e}"
    return found


def largest(values: Tensor) -> float:
    return float(values.abs().max())


def assert_same_bits(got: Sequence[Tensor], want: Sequence[Tensor]) -> None:
    for i, (one, other) in enumerate(zip(got, want, strict=True)):
        assert torch.equal(one, other), f"result {i}"


def cotangent(like: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 7)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def derivatives(op: Callable[..., Tensor], inputs: Sequence[Tensor], order: int) -> list[Tensor]:
    """The output of ``op`` and its derivatives up to ``order``, in float64 for comparison."""
    inputs = [t.detach().requires_grad_() for t in inputs]  # not copied: the copy of a tensor with gaps has none
    out = op(*inputs)
    results, new = [out], [out]
    for depth in range(order):
        loss = sum((t * cotangent(t, seed=i)).sum() for i, t in enumerate(new))
        # An input that is only added has a gradient that depends on nothing: zeros from there on.
        new = list(torch.autograd.grad(loss, inputs, create_graph=depth + 1 < order, materialize_grads=True))
        results += new
        # squares, so that the next derivative depends on every argument again
        new = [t * t for t in new]
    return [result.detach().double() for result in results]


def check_only_needed_gradients(op: Callable[..., Tensor], inputs: Sequence[Tensor]) -> None:
    """Whatever is differentiated, the same bits, and no gradient of what was not asked for."""
    whole = derivatives(op, inputs, order=1)[1:]
    for needed in itertools.product([True, False], repeat=len(inputs)):
        leaves = [t.detach().requires_grad_(need) for t, need in zip(inputs, needed, strict=True)]
        if any(needed):
            out = op(*leaves)
            out.backward(cotangent(out))
        for leaf, want, need in zip(leaves, whole, needed, strict=True):
            assert torch.equal(leaf.grad, want) if need else leaf.grad is None


def check_compile_and_export(
    op: torch.nn.Module, inputs: Sequence[Tensor], others: tuple[Any, ...] = (), dynamic: bool | None = None, **tolerance: float
) -> torch.export.ExportedProgram:
    """Compiled and exported, ``op(*inputs, *others)`` gives what it gives as it is; so do the gradients of ``inputs`` when compiled."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    compiled = torch.compile(op, backend="inductor" if CUDA else "aot_eager", fullgraph=True, dynamic=dynamic)
    want, got = op(*leaves, *others), compiled(*leaves, *others)
    torch.testing.assert_close(got, want, **tolerance)
    if leaves:
        outputs = [out if isinstance(out, Tensor) else out[0] for out in (got, want)]
        ours, theirs = (torch.autograd.grad(out.square().sum(), leaves) for out in outputs)
        torch.testing.assert_close(ours, theirs, **tolerance)
    plain = tuple(t.detach() for t in inputs)
    exported = torch.export.export(op, (*plain, *others))
    torch.testing.assert_close(exported.module()(*plain, *others), want, **tolerance)
    return exported


def check_replay(run: Callable[[], Sequence[Tensor]], inputs: Sequence[Tensor]) -> None:
    """A CUDA graph of ``run``, replayed after ``inputs`` were halved in place, gives the bits of a call made then."""
    warm_up(run)
    graph, captured = record(run)
    with torch.no_grad():
        for t in inputs:
            t.mul_(0.5)
    graph.replay()
    assert_same_bits(captured, run())


def spread(tree: Any) -> Any:
    """The same numbers, the first index fastest in memory and a gap between any two."""

    def apart(t: Tensor) -> Tensor:
        turned = t.permute(*reversed(range(t.ndim)))
        return torch.stack([turned, turned], dim=-1)[..., 0].permute(*reversed(range(t.ndim)))

    return tree_map(lambda t: apart(t) if isinstance(t, Tensor) else t, tree)


def random_rows(
    generator: torch.Generator,
    nodes: int,
    edges: int,
    *,
    padding: int = 0,
    num_senders: int | None = None,
    num_receivers: int | None = None,
) -> tuple[Tensor, ...]:
    """Random edges from the first ``num_senders`` of so many atoms to the first ``num_receivers``, as ``Graph.rows`` holds them.

    Senders come in any order. Padding is from the last atom to itself, behind the row offsets.
    """
    senders, receivers = (
        torch.randint(max(nodes, 1) if number is None else number, (edges,), generator=generator) for number in (num_senders, num_receivers)
    )
    shifts = torch.zeros(edges, 3, dtype=torch.int64)
    graph = Graph.from_sorted(senders, receivers.sort().values, shifts, nodes, cutoff=1.0)
    return tuple(t.to(DEVICE) for t in graph.padded(edges + padding).rows)


def behind_loops(rows: tuple[Tensor, ...], loops: int) -> tuple[Tensor, ...]:
    """Rows of a graph with an extra atom in front and so many edges from it to itself, which come first."""
    senders, receivers, receiver_offsets, transpose, sender_offsets = rows
    zeros, first = senders.new_zeros(loops), senders.new_zeros(1)
    return (
        torch.cat([zeros, senders + 1]),
        torch.cat([zeros, receivers + 1]),
        torch.cat([first, receiver_offsets + loops]),
        torch.cat([torch.arange(loops, device=transpose.device), transpose + loops]),
        torch.cat([first, sender_offsets + loops]),
    )


def some_of(atoms: int, few: int) -> list[int]:
    """Places of ``few`` atoms among so many, in order; the last atom is one of them."""
    chosen = torch.randint(atoms // few, (few - 1,), generator=torch.Generator().manual_seed(atoms))
    return [*(chosen + torch.arange(few - 1) * (atoms // few)).tolist(), atoms - 1]


def among(rows: tuple[Tensor, ...], places: Sequence[int], atoms: int) -> tuple[Tensor, ...]:
    """Rows of a graph without padding whose atoms are now at ``places`` among so many; the others have no edges."""
    senders, receivers, _, transpose, _ = rows
    where, ends = torch.tensor(places, device=senders.device), torch.arange(atoms + 1, device=senders.device)
    senders, receivers = where[senders], where[receivers]
    return senders, receivers, torch.searchsorted(receivers, ends), transpose, torch.searchsorted(senders[transpose], ends)


def stretched(few: Tensor, places: Sequence[int], atoms: int) -> Tensor:
    """Rows of a tensor put at ``places`` among so many, and NaN between them: nobody may read it."""
    many = torch.full((atoms, *few.shape[1:]), torch.nan, dtype=few.dtype, device=few.device)
    for row, place in zip(few, places, strict=True):  # by slices, which no kernel of torch's has to index
        many[place] = row
    return many


def assert_stretched(many: Tensor, few: Tensor, places: Sequence[int]) -> None:
    """Rows at ``places`` are those of ``few``, and all others zero."""
    torch.testing.assert_close(torch.stack([many[place] for place in places]), few, rtol=1e-6, atol=1e-6 * largest(few))
    assert int(torch.count_nonzero(many)) == sum(int(torch.count_nonzero(many[place])) for place in places)


def check_among(case: Any, inputs: Sequence[Tensor], atoms: int) -> None:
    """An op over ``case.edges``, the first of whose inputs are atoms, on the same few of them among so many."""
    places = some_of(atoms, inputs[0].shape[0])
    small = [t.float().requires_grad_() for t in inputs]
    want = case.op(*small)
    g = cotangent(want)
    large = [stretched(small[0].detach(), places, atoms).requires_grad_(), *(t.detach().clone().requires_grad_() for t in small[1:])]
    out = case._replace(edges=among(case.edges, places, atoms)).op(*large)
    assert_stretched(out.detach(), want.detach(), places)
    wanted = torch.autograd.grad(want, small, g)
    grads = torch.autograd.grad(out, large, stretched(g, places, atoms))
    assert_stretched(grads[0], wanted[0], places)
    for got, exact in zip(grads[1:], wanted[1:], strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-6, atol=1e-6 * largest(exact))
