"""Traces taken apart: made-up ones, of the shape that torch.profiler writes on CUDA and on the CPU."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mosso.bench.profile.replays import aligned
from mosso.bench.profile.timeline import Block, Timeline, analyse, covered
from mosso.bench.profile.trace import Place, events_of, read_trace

Record = dict[str, Any]
MAIN, BACKWARD = 100, 200  # threads of the host


def bar(cat: str, name: str, ts: float, dur: float, tid: int = MAIN, **args: Any) -> Record:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "pid": 1, "tid": tid, "args": args}


def named(name: str, ts: float, dur: float) -> Record:
    return bar("user_annotation", f"mosso: {name}", ts, dur)


def op(name: str, ts: float, dur: float, seq: int | None = None, tid: int = MAIN, **args: Any) -> Record:
    numbers = {} if seq is None else {"Sequence number": seq, "Fwd thread id": 0}
    return bar("cpu_op", name, ts, dur, tid, **numbers, **args)


def node(name: str, ts: float, dur: float, seq: int, tid: int = BACKWARD) -> Record:
    return bar("cpu_op", f"autograd::engine::evaluate_function: {name}", ts, dur, tid, **{"Sequence number": seq, "Fwd thread id": 1})


def launch(ts: float, correlation: int, tid: int = MAIN, name: str = "cudaLaunchKernel", dur: float = 2.0, **args: Any) -> Record:
    return bar("cuda_runtime", name, ts, dur, tid, correlation=correlation, **args)


def kernel(name: str, ts: float, dur: float, correlation: int, stream: int = 7, cat: str = "kernel") -> Record:
    return bar(cat, name, ts, dur, stream, correlation=correlation, stream=stream, device=0)


# One call of 100 us: two forward ops with a kernel each, their backward on a thread of its own, and the wait at the end.
STEP = [
    named("call", 1000, 100),
    named("interaction 0", 1002, 18),
    op("aten::bmm", 1004, 10, seq=5),
    launch(1006, correlation=1),
    named("product 0", 1020, 10),
    op("mosso::contraction", 1021, 8, seq=6),
    op("aten::empty", 1022, 1),
    launch(1024, correlation=2, name="cuLaunchKernelEx"),
    node("ContractionBackward", 1040, 10, seq=6),
    op("aten::mul", 1041, 6, tid=BACKWARD),
    launch(1043, correlation=3, tid=BACKWARD),
    node("BmmBackward0", 1052, 8, seq=5),
    launch(1054, correlation=4, tid=BACKWARD),
    node("UnknownBackward0", 1062, 4, seq=99),
    launch(1063, correlation=5, tid=BACKWARD, name="cudaMemcpyAsync"),
    launch(1070, correlation=6, name="cudaDeviceSynchronize", dur=30),
    kernel("gemm", 1010, 10, 1),
    kernel("contraction", 1030, 5, 2),
    kernel("contraction_gradient", 1050, 20, 3),
    kernel("gemm", 1065, 10, 4, stream=9),  # beside the one before, for 5 us
    kernel("Memcpy DtoD", 1080, 5, 5, cat="gpu_memcpy"),
    bar("gpu_user_annotation", "mosso: call", 1010, 75, 7),
    {"ph": "s", "cat": "ac2g", "id": 1, "name": "ac2g", "ts": 1006, "pid": 1, "tid": MAIN},
]


def later(records: list[Record], by: float) -> list[Record]:
    return [record | {"ts": record["ts"] + by} for record in records]


def renumbered(records: list[Record], by: int) -> list[Record]:
    """The same with other correlations and sequence numbers."""
    keys = ("correlation", "Sequence number")
    return [r | {"args": {k: v + by if k in keys else v for k, v in r.get("args", {}).items()}} for r in records]


def blocks(timeline: Timeline) -> dict[str, Block]:
    return {block.block: block for block in timeline.blocks}


def test_kernels_belong_to_the_block_that_launched_them() -> None:
    found = analyse(events_of(STEP), on_device=True)
    of = blocks(found)
    assert (of["interaction"].device_ms, of["interaction"].launches) == (pytest.approx(0.020), 2)
    assert (of["product"].device_ms, of["product"].launches) == (pytest.approx(0.025), 2)
    assert (of["other"].device_ms, of["other"].launches) == (pytest.approx(0.005), 1)
    assert of["host"].device_ms == 0
    assert found.launches == 5
    assert [block.block for block in found.blocks] == ["interaction", "product", "other", "host"]


def test_the_device_is_idle_when_no_kernel_runs() -> None:
    found = analyse(events_of(STEP), on_device=True)
    assert found.busy_ms == pytest.approx(0.010 + 0.005 + 0.025 + 0.005)
    assert covered([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4


def test_the_time_of_the_host_counts_once_and_waiting_is_not_work() -> None:
    found = analyse(events_of(STEP), on_device=True)
    of = blocks(found)
    assert of["interaction"].host_ms == pytest.approx(0.018 + 0.008)
    assert of["product"].host_ms == pytest.approx(0.010 + 0.010)
    assert of["other"].host_ms == pytest.approx(0.004)
    # 2 before the first block, 10 until the backward pass begins, 2 and 2 between its nodes, 4 before the wait
    assert of["host"].host_ms == pytest.approx(0.020)
    assert sum(block.host_ms for block in found.blocks) == pytest.approx(0.1 - 0.030)
    assert found.issuing_ms == pytest.approx((10 + 8 + 10 + 8 + 4) * 1e-3)
    assert found.own_ms == pytest.approx(0.1 - 0.030 - found.issuing_ms)


def test_calls_are_averaged_and_what_lies_between_is_left_out() -> None:
    between = [op("aten::randn", 1150, 5), launch(1151, 900), kernel("noise", 2001, 3, 900)]  # still runs in the next call
    once, twice = (
        analyse(events_of(records), on_device=True) for records in (STEP, [*STEP, *between, *later(renumbered(STEP, 1000), 1000)])
    )
    assert twice.launches == once.launches == 5
    for one, two in zip(once.blocks, twice.blocks, strict=True):
        assert (two.block, two.launches) == (one.block, one.launches)
        assert (two.device_ms, two.host_ms) == (pytest.approx(one.device_ms), pytest.approx(one.host_ms))
    rows = {k.kernel: k for k in twice.kernels}
    assert "noise" not in rows
    assert (rows["gemm"].launches, rows["gemm"].us, rows["gemm"].share) == (2, pytest.approx(20), pytest.approx(0.4))
    assert sum(k.share for k in twice.kernels) == pytest.approx(1)


def test_the_last_op_of_a_number_made_the_node() -> None:
    """An op without a node, in the block before, has the number of the next op that makes one."""
    records = [
        named("call", 0, 100),
        named("embedding", 1, 10),
        op("aten::detach", 2, 2, seq=5),
        named("readout 0", 20, 10),
        op("aten::matmul", 21, 6, seq=5),
        op("aten::mv", 22, 4, seq=5),
        node("MvBackward0", 40, 10, seq=5),
        launch(42, 1, tid=BACKWARD),
        kernel("gemv", 50, 8, 1),
    ]
    assert blocks(analyse(events_of(records), on_device=True))["readout"].launches == 1


def replay(ts: float, correlation: int, names: list[str]) -> list[Record]:
    """A call of a recorded graph: positions are copied in, the graph is launched at once, forces are copied out."""
    return [
        named("replay", ts, 90),
        op("aten::copy_", ts + 1, 3),
        launch(ts + 2, correlation, name="cudaMemcpyAsync"),
        launch(ts + 5, correlation + 1, name="cudaGraphLaunch", dur=5),
        op("aten::clone", ts + 11, 3),
        launch(ts + 12, correlation + 2),
        kernel("Memcpy DtoD", ts + 4, 1, correlation, cat="gpu_memcpy"),
        *(kernel(name, ts + 10 + 10 * i, 8, correlation + 1) for i, name in enumerate(names)),
        kernel("copy", ts + 80, 2, correlation + 2),
    ]


# What the kernels of STEP are called in a recorded graph.
RECORDED = ["gemm", "contraction", "contraction_gradient", "gemm", "Memcpy DtoD"]


def test_kernels_of_a_replay_belong_where_their_counterparts_do() -> None:
    found = analyse(events_of([*STEP, *replay(2000, 50, RECORDED), *replay(3000, 60, RECORDED)]), "replay", on_device=True)
    of = blocks(found)
    assert (found.launches, found.busy_ms) == (7, pytest.approx(0.043))
    assert {name: block.launches for name, block in of.items()} == {"interaction": 2, "product": 2, "copies": 2, "other": 1, "host": 0}
    assert of["interaction"].device_ms == of["product"].device_ms == pytest.approx(0.016)
    assert of["copies"].device_ms == pytest.approx(0.003)
    # the host has no blocks: it copies and launches once
    assert {name for name, block in of.items() if block.host_ms} == {"host"}
    assert of["host"].host_ms == pytest.approx(0.090)
    assert found.issuing_ms == pytest.approx(0.003 + 0.003 + 0.005)


def test_plain_calls_of_the_same_trace_stay_as_they_are() -> None:
    both = events_of([*STEP, *replay(2000, 50, RECORDED)])
    assert analyse(both, on_device=True) == analyse(events_of(STEP), on_device=True)


def test_without_plain_calls_a_replay_has_no_blocks() -> None:
    of = blocks(analyse(events_of(replay(2000, 50, RECORDED)), "replay", on_device=True))
    assert (of["copies"].launches, of["other"].launches) == (2, 5)


def test_kernels_whose_launch_was_not_seen_are_of_the_graph() -> None:
    records = [*STEP, *replay(2000, 50, RECORDED)]
    unseen = [r for r in records if r["name"] != "cudaGraphLaunch"]
    assert analyse(events_of(unseen), "replay", on_device=True).blocks[0].launches == 2


A, B = Place("interaction", "path_linear"), Place("product", "path_linear")


@pytest.mark.parametrize(
    ("plain", "replayed", "expected"),
    [
        ([("a", A), ("b", B), ("a", B)], "aba", [A, B, B]),
        ([("noise", Place()), ("a", A), ("b", B)], "ab", [A, B]),  # what only the plain call does
        ([("a", A), ("gemm", A), ("b", B)], "aGb", [A, A, B]),  # another kernel for the same product
        ([("a", A), ("b", A)], "aGb", [A, A, A]),  # one more, between two of a block
        ([("a", A), ("b", B)], "aGb", [A, Place(op="path_linear"), B]),  # one more between two blocks: of neither
        ([("a", A), ("gemm", A), ("gemm", B), ("b", B)], "aGGb", [A, Place(op="path_linear"), Place(op="path_linear"), B]),
        ([("a", A)], "ab", [A, A]),
        ([], "ab", [Place(), Place()]),
        ([("a", A)], "", []),
    ],
)
def test_what_is_not_the_same_in_both_is_not_guessed(plain: list[tuple[str, Place]], replayed: str, expected: list[Place]) -> None:
    assert aligned(plain, list(replayed)) == expected


def test_ops_are_told_apart_within_a_block() -> None:
    records = [
        named("call", 0, 100),
        named("interaction 1", 1, 60),
        bar("user_annotation", "mosso.kernels: path_linear", 2, 10),
        op("aten::mm", 3, 8, seq=1),
        launch(4, 1),
        bar("user_annotation", "mosso.kernels: edge_convolution", 20, 10),
        op("mosso::convolution", 21, 8, seq=2),
        launch(22, 2),
        op("aten::add", 40, 5, seq=3),
        launch(41, 3),
        node("ConvolutionBackward", 70, 10, seq=2),
        launch(71, 4, tid=BACKWARD),
        *(kernel(name, 30 + 12 * i, 3 + i, i + 1) for i, name in enumerate(["gemm", "conv", "add", "conv_gradient"])),
    ]
    found = analyse(events_of(records), on_device=True)
    assert {row.op: (row.launches, round(1e3 * row.device_ms)) for row in found.ops} == {
        "edge_convolution": (2, 10),
        "path_linear": (1, 3),
        "other": (1, 5),
    }
    assert blocks(found)["interaction"].launches == 4


def test_a_launch_on_a_thread_the_driver_names_in_its_own_way() -> None:
    records = [
        named("call", 0, 50),
        named("product 1", 1, 20),
        op("aten::mm", 2, 10, **{"External id": 17}),
        launch(4, 1, tid=-12345, **{"External id": 17}),
        kernel("gemm", 20, 8, 1),
    ]
    assert blocks(analyse(events_of(records), on_device=True))["product"].launches == 1


def test_on_the_cpu_ops_compute_and_nothing_counts_twice() -> None:
    records = [
        named("call", 0, 100),
        named("product 0", 10, 50),
        op("aten::matmul", 15, 40, seq=3),
        op("aten::mm", 20, 30, seq=3),
        op("aten::empty", 22, 5),
        node("MmBackward0", 70, 20, seq=3, tid=MAIN),
        op("aten::mm", 72, 15, tid=MAIN),
    ]
    found = analyse(events_of(records), on_device=False)
    rows = {k.kernel: k for k in found.kernels}
    assert {name: k.us for name, k in rows.items()} == pytest.approx({"aten::mm": 40, "aten::matmul": 10, "aten::empty": 5})
    assert found.busy_ms == pytest.approx(0.055)
    assert found.launches is None
    of = blocks(found)
    assert (of["product"].device_ms, of["product"].host_ms) == (pytest.approx(0.055), pytest.approx(0.010 + 0.005))
    assert of["host"].host_ms == pytest.approx(0.030)
    assert sum(block.device_ms + block.host_ms for block in found.blocks) == pytest.approx(found.span_ms)


def test_a_search_is_a_span_of_its_own() -> None:
    records = [*STEP, named("neighbour list", 2000, 10), op("aten::sort", 2002, 5)]
    found = analyse(events_of(records), "neighbour list", on_device=False)
    assert blocks(found)["neighbour list"] == Block("neighbour list", pytest.approx(0.005), pytest.approx(0.005), None)
    assert found.span_ms == pytest.approx(0.010)


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_files_are_read_packed_or_not(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    text = json.dumps({"schemaVersion": 1, "traceEvents": STEP}).encode()
    path.write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    assert analyse(read_trace(path), on_device=True) == analyse(events_of(STEP), on_device=True)


def test_a_trace_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="no range 'mosso: call'"):
        analyse(events_of([op("aten::mm", 0, 1)]), on_device=True)
