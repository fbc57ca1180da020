"""A whole profile on the CPU, of a tiny model."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mosso import kernels
from mosso.bench.cases import MP0_MEDIUM
from mosso.bench.forms import tabulated
from mosso.bench.limits import Size, costs
from mosso.bench.peers import serve
from mosso.bench.profile import anatomy as anatomy_module
from mosso.bench.profile.anatomy import COUNTED_IN, anatomy
from mosso.bench.profile.blocks import OPS, block_ranges
from mosso.bench.profile.subject import STEP, Subject, has_file, potential_of, structures_of
from mosso.bench.profile.tables import tables
from mosso.bench.profile.timeline import analyse
from mosso.bench.profile.trace import Event, Places, events_of, nested, read_trace
from mosso.bench.rates import Rates
from mosso.bench.systems import SYSTEMS
from mosso.engine.potential import Potential
from mosso.models import outputs


@pytest.fixture
def subject(tiny: None, monkeypatch: pytest.MonkeyPatch) -> Subject:
    for module in ("rates", "profile.anatomy"):
        monkeypatch.setattr(f"mosso.bench.{module}.SECONDS", 0.0)
    return Subject.of(potential_of("mace-mp0-medium", "cpu", "fp32"), structures_of("C8"), stress=True)


@pytest.fixture
def document(subject: Subject) -> dict[str, Any]:
    return anatomy(subject, "C8", calls=2)


def of_block(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {block["block"]: block for block in document["blocks"]}


def test_blocks_add_up_to_the_call(document: dict[str, Any]) -> None:
    *own, search = document["blocks"]
    assert {block["block"] for block in own} == {"embedding", "interaction", "product", "readout", "forces", "binding", "other", "host"}
    assert sum(b["device_ms"] + b["host_ms"] for b in own) == pytest.approx(document["profiled_ms"], rel=1e-3)
    assert sum(b["device_ms"] for b in own) == pytest.approx(document["busy_ms"], rel=1e-3)
    assert sum(k["us"] for k in document["kernels"]) == pytest.approx(1e3 * document["busy_ms"], rel=1e-3)
    assert sum(k["share"] for k in document["kernels"]) == pytest.approx(1)
    assert search["block"] == "neighbour list" and search["host_ms"] > 0


def test_the_backward_pass_is_found_in_its_blocks(subject: Subject, tmp_path: Path) -> None:
    """By number, not by time: on a busy machine any op may take long."""
    anatomy(subject, "C8", calls=1, trace=tmp_path / "trace.json")
    host = nested([event for event in read_trace(tmp_path / "trace.json") if event.category != "kernel"])
    places = Places(host)
    nodes = Counter(places.of(event).block for event in host if event.category == "node")
    ops = Counter(places.of(event).block for event in host if event.category == "op")
    assert set(nodes) <= {"embedding", "interaction", "product", "readout", "other"}
    assert nodes["other"] < 0.05 * nodes.total()
    assert ops["other"] < 0.2 * ops.total()
    assert min(nodes["product"], nodes["interaction"], nodes["embedding"]) > 20
    assert nodes["readout"] >= 4


def test_what_is_said_of_the_run(document: dict[str, Any], subject: Subject) -> None:
    assert (document["system"], document["atoms"], document["edges"]) == ("C8", 8, subject.graph.num_edges)
    assert (document["precision"], document["device"], document["stress"], document["mode"]) == ("fp32", "cpu", True, "eager")
    assert document["gap_ms"] is None and document["launches"] is None and document["gpu"] is None
    assert document["limit_share"] is None  # the limits of this CPU are not known
    assert document["rates"]["measured"]
    assert document["gflops"] > 0 and document["gbytes"] > 0
    blocks = of_block(document)
    assert sum(b["gflops"] or 0 for b in document["blocks"]) == pytest.approx(document["gflops"])
    assert blocks["interaction"]["gflops"] > blocks["product"]["gflops"] > 0
    assert blocks["readout"]["gflops"] is None
    assert document["verdict"].split(":")[0] in ("host-bound", "compute-bound", "bandwidth-bound", "device-bound")
    assert document["versions"]["torch"] == torch.__version__
    json.dumps(document, allow_nan=False)


def test_the_model_is_left_as_it_was(subject: Subject) -> None:
    potential = subject.potential
    before = dict(vars(kernels)), dict(vars(outputs))
    with pytest.raises(RuntimeError), block_ranges(potential):
        assert vars(kernels)["edge_forces"] is not before[0]["edge_forces"]
        assert "forward" in vars(potential.model.products[0])  # type: ignore[attr-defined]
        raise RuntimeError
    assert (dict(vars(kernels)), dict(vars(outputs))) == before
    for module in potential.model.modules():  # type: ignore[attr-defined]
        assert not {"forward", "up", "edge_features"} & set(vars(module))


def test_the_form_with_tables_has_the_same_blocks(subject: Subject) -> None:
    form = Subject(tabulated(subject.potential), subject.batch, subject.graph, stress=False)
    document = anatomy(form, "C8", calls=1)
    blocks = of_block(document)
    ops = sum(block["device_ms"] for block in document["blocks"])
    assert blocks["other"]["device_ms"] < 0.2 * ops
    assert {"embedding", "interaction", "product", "readout", "forces"} <= set(blocks)
    assert document["gflops"] < anatomy(subject, "C8", calls=1)["gflops"]  # no radial networks


@torch.library.custom_op("mosso_tests::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@torch.library.custom_op("mosso_tests::halved", mutates_args=())
def halved(gradient: torch.Tensor) -> torch.Tensor:
    return gradient * 0.5


doubled.register_autograd(lambda context, gradient: halved(gradient))


def test_ops_with_a_registered_derivative_are_found_too(tmp_path: Path) -> None:
    """As the Triton ops are made."""
    x = torch.ones(1000, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU]) as recorded, record_function("mosso: call"):
        y = x.sin()
        with record_function("mosso: product 0"):
            y = doubled(y)
        torch.autograd.grad(y.sum(), x)
    recorded.export_chrome_trace(str(tmp_path / "trace.json"))
    events = read_trace(tmp_path / "trace.json")
    timeline = analyse(events, on_device=False)
    assert {kernel.kernel for kernel in timeline.kernels} >= {"mosso_tests::doubled", "mosso_tests::halved"}
    only = [event for event in events if event.name in ("mosso: call", "mosso: product 0") or event.category == "node"]
    with_ops = [*only, *(e for e in events if e.name in ("mosso_tests::doubled", "mosso_tests::halved"))]
    found = {block.block: block.device_ms for block in analyse(with_ops, on_device=False).blocks}
    assert found["product"] > 0 and found["other"] == 0


def test_a_trace_is_left_where_asked(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "trace.json.gz"
    anatomy(subject, "C8", calls=3, trace=path)
    events = read_trace(path)
    for name, count in (("mosso: call", 3), ("mosso: neighbour list", 3), ("mosso: product 1", 4)):  # one more to warm up
        assert sum(event.name == name for event in events) == count


def bar(cat: str, name: str, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": 1, "args": args}


GPU = [
    bar("user_annotation", "mosso: neighbour list", 0, 100),
    bar("user_annotation", "mosso: call", 1000, 500),
    bar("user_annotation", "mosso: product 0", 1000, 400),
    bar("user_annotation", "mosso.kernels: symmetric_contraction", 1000, 300),
    bar("cuda_runtime", "cudaLaunchKernel", 1010, 5, correlation=1),
    bar("kernel", "contraction", 1020, 30, correlation=1, stream=7),
    bar("user_annotation", "mosso: replay", 2000, 60),
    bar("cuda_runtime", "cudaGraphLaunch", 2005, 4, correlation=2),
    bar("kernel", "contraction", 2010, 25, correlation=2, stream=7),
    bar("cuda_runtime", "cudaMemcpyAsync", 2011, 1, correlation=3),
    bar("gpu_memcpy", "Memcpy DtoD", 2036, 5, correlation=3, stream=7),
]


def test_of_two_runs_on_a_gpu_the_captured_one_gives_times(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the plain one stands beside it; idle is what is left of a call without the profiler."""
    monkeypatch.setattr(Subject, "known_rates", lambda self: Rates(1e12, 1e11))
    found = {span: analyse(events_of(GPU), span, on_device=True) for span in ("call", "replay", "neighbour list")}
    document = anatomy_module.document(subject, "C8", found, {"call": 0.4, "replay": 0.05, "neighbour list": 0.1})
    assert (document["mode"], document["wall_ms"], document["search_ms"]) == ("captured", 0.05, 0.1)
    blocks, plain = of_block(document), document["eager"]
    assert (blocks["product"]["device_ms"], of_block(plain)["product"]["device_ms"]) == (pytest.approx(0.025), pytest.approx(0.030))
    assert (blocks["copies"]["launches"], blocks["product"]["host_ms"]) == (1, 0)
    assert [kernel["kernel"] for kernel in document["kernels"]] == ["contraction", "Memcpy DtoD"]
    assert (document["launches"], document["busy_ms"], document["gap_ms"]) == (2, pytest.approx(0.030), pytest.approx(0.020))
    assert not document["verdict"].startswith(("launch", "host"))
    assert (plain["wall_ms"], plain["launches"], plain["gap_ms"]) == (0.4, 1, pytest.approx(0.370))
    assert plain["verdict"].startswith("host-bound")

    contraction = next(op for op in document["ops"] if op["op"] == "symmetric_contraction")
    least = 1e-3 * sum(cost.microseconds(Rates(1e12, 1e11)) for cost in subject.costs() if cost.op.startswith("contraction"))
    assert (contraction["least_ms"], contraction["limit_share"]) == (pytest.approx(least), pytest.approx(least / 0.025))
    assert document["limit_share"] == pytest.approx(document["least_ms"] / 0.05)
    assert blocks["copies"]["limit_share"] is None
    assert "| symmetric_contraction | 0.025 |" in tables(document)

    del found["replay"]
    alone = anatomy_module.document(subject, "C8", found, {"call": 0.4, "neighbour list": 0.1})
    assert (alone["mode"], alone["eager"], alone["verdict"]) == ("eager", None, plain["verdict"])


def test_kernels_of_a_whole_evaluation_find_their_blocks_again(subject: Subject, tmp_path: Path) -> None:
    """Every op of a real call, forward and backward, stands for a kernel; the replay has them in order, without what prepares the
    atoms, and every thirtieth under another name, as a matrix product chosen for other shapes has."""
    anatomy(subject, "C8", calls=1, trace=tmp_path / "trace.json")
    host = [event for event in read_trace(tmp_path / "trace.json") if event.category != "kernel"]
    (call,) = (event for event in nested(host) if event.name == "mosso: call")
    parents, places = {id(event.parent) for event in host}, Places(host)
    leaves = [e for e in host if e.category == "op" and id(e) not in parents and call.start <= e.start <= call.end]
    launches = [Event("cudaLaunchKernel", "runtime", e.start, 0.0, e.thread, correlation=i) for i, e in enumerate(leaves)]
    plain = [Event(e.name, "kernel", e.start, 1.0, correlation=i) for i, e in enumerate(leaves)]
    expected = [(e.name, places.of(e)) for e in leaves if places.of(e).block != "other"]
    start, number = call.end + 10.0, len(leaves)
    replay = [
        Event("mosso: replay", "range", start, 1e6, call.thread),
        Event("cudaGraphLaunch", "runtime", start + 1.0, 1.0, call.thread, correlation=number),
        *(Event(name if i % 30 else "another", "kernel", start + 3.0 + i, 1.0, correlation=number) for i, (name, _) in enumerate(expected)),
    ]
    blocks = {block.block: block.launches for block in analyse([*host, *launches, *plain, *replay], "replay", on_device=True).blocks}
    counts = Counter(place.block for _, place in expected)
    assert sum(counts.values()) > 500 and set(counts) == {"embedding", "interaction", "product", "readout", "forces", "binding"}
    assert {block: blocks[block] for block in counts} == pytest.approx(counts, rel=0.03)
    assert blocks["other"] < 0.02 * sum(counts.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_kernels_of_replays_find_their_blocks(tiny: None) -> None:
    subject = Subject.of(potential_of("mace-mp0-medium", "cuda", "fp32"), structures_of("C216"), stress=True)
    document = anatomy(subject, "C216", calls=2)
    assert document["mode"] == "captured"
    for ran in (document, document["eager"]):
        blocks = of_block(ran)
        assert blocks["other"]["device_ms"] < 0.1 * ran["busy_ms"]
        assert min(blocks[name]["launches"] for name in ("embedding", "interaction", "product", "readout", "forces")) >= 1
        assert sum(block["launches"] for name, block in blocks.items() if name != "neighbour list") == pytest.approx(ran["launches"])
    assert document["eager"]["wall_ms"] > document["wall_ms"]


def test_what_is_counted_has_a_place() -> None:
    """Every op of limits.py, in all its forms, stands in the blocks and ops that ranges are put around."""
    specs = [MP0_MEDIUM, replace(MP0_MEDIUM, interactions=("RealAgnostic",) * 2)]
    counted = {cost.op.rstrip(" 0123456789") for spec in specs for n in (None, 64) for cost in costs(spec, Size(8, 80, 2, n))}
    assert counted == set(COUNTED_IN)
    assert {op for _, ops in COUNTED_IN.values() for op in ops} <= set(OPS)


def test_times_are_taken_before_anything_is_wrapped(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    timed, traced = anatomy_module.wall_time, anatomy_module.traced
    plain = kernels.edge_forces

    def wall_time(*arguments: Any) -> float:
        assert kernels.edge_forces is plain
        assert not torch.autograd.profiler._is_profiler_enabled
        order.append("timed")
        return timed(*arguments)

    def trace(*arguments: Any) -> Any:
        assert kernels.edge_forces is not plain
        order.append("traced")
        return traced(*arguments)

    monkeypatch.setattr(anatomy_module, "wall_time", wall_time)
    monkeypatch.setattr(anatomy_module, "traced", trace)
    anatomy(subject, "C8", calls=1)
    assert order == ["timed", "timed", "traced"]
    assert kernels.edge_forces is plain


def test_an_architecture_that_is_not_counted(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mosso.bench.profile.subject.MACE", int)
    document = anatomy(subject, "C8", calls=1)
    assert document["gflops"] is None and document["gbytes"] is None and document["limit_share"] is None


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"Unknown system 'Cu65'.*Cu64"):
        structures_of("Cu65")
    with pytest.raises(ValueError, match=r"Unknown model 'mace-mp0-tiny'.*shapes of the benchmark.*mace-mp0-medium"):
        has_file("mace-mp0-tiny")
    assert not has_file("mace-mp0-medium") and has_file("mosso-xtb-s")


def test_systems_are_those_of_the_suite() -> None:
    for name in ("chain25", "C8", "Cu64"):
        (ours,) = structures_of(name)
        assert (ours.positions == SYSTEMS[name].structures(1)[0].positions).all()


def test_atoms_move_as_those_of_other_packages() -> None:
    assert serve.STEP == STEP


def test_stress_wants_a_volume(exact: Potential) -> None:
    from mosso.data.structure import Structure

    with pytest.raises(ValueError, match="Stress needs a cell"):
        Subject.of(exact, [Structure([1, 1], [[0, 0, 0], [0, 0, 0.8]])], stress=True)
    with pytest.raises(ValueError, match="0 calls"):
        anatomy(Subject.of(exact, structures_of("C8"), stress=False), "C8", calls=0)
