"""``mosso profile``: one evaluation taken apart into blocks, ops and kernels, beside what it must cost at least.

A call is an evaluation of energy and forces (and stress) with its edges given, atoms moved before each. The search for neighbours is
profiled apart from it: a simulation searches once in many steps. Times of whole calls are measured before the profiler runs and before
anything is wrapped for it.

On CUDA both the plain call and the replay of a recorded CUDA graph, which is what simulations do, are taken apart.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function

from mosso.bench import hardware, measure
from mosso.bench.limits import Cost
from mosso.bench.profile.blocks import EMBEDDING, INTERACTION, LIST, PRODUCT, block_ranges
from mosso.bench.profile.subject import Subject
from mosso.bench.profile.timeline import Block, Timeline, analyse
from mosso.bench.profile.trace import CALL, PREFIX, REPLAY, Event, read_trace
from mosso.bench.profile.verdict import Times, Work, verdict
from mosso.bench.rates import Rates, measured
from mosso.data.structure import Batch
from mosso.engine.capture import CapturedPotential
from mosso.version import VERSION

SCHEMA = "mosso-profile/2"
SECONDS = 1.0  # of timing each kind of call
# What is counted (mosso.bench.limits) -> the block and the op of mosso.kernels that do it, one op or the other.
COUNTED_IN = {
    "edge features": (EMBEDDING, ("edge_features",)),
    "radial moments": (INTERACTION, ("radial_moments",)),
    "radial network": (INTERACTION, ("radial_mlp",)),
    "convolution": (INTERACTION, ("edge_convolution", "tabulated_convolution")),
    **dict.fromkeys(("first mix", "up", "mix"), (INTERACTION, ("path_linear",))),
    **dict.fromkeys(("residual", "by species"), (INTERACTION, ("species_path_linear",))),
    "contraction": (PRODUCT, ("symmetric_contraction",)),
    **dict.fromkeys(("product", "folded up"), (PRODUCT, ("path_linear",))),
}
Spans = dict[str, Callable[[Batch], Any]]
Progress = Callable[[int], None]


def anatomy(
    subject: Subject, system: str, *, calls: int = 5, trace: Path | None = None, progress: Progress = lambda done: None
) -> dict[str, Any]:
    """Everything ``mosso profile`` says, as JSON types.

    Args:
        subject: what is profiled.
        system: what its atoms are called.
        calls: how many calls of each kind are profiled.
        trace: where the trace of the profiled calls is left (Chrome's format; gzip if it ends in .gz).
        progress: told how many of three parts are done.

    Raises:
        ValueError: fewer than one call.
    """
    if calls < 1:
        raise ValueError(f"{calls} calls cannot be profiled: ask for one or more.")
    potential, on_device = subject.potential, subject.device.type == "cuda"
    spans: Spans = {LIST: potential.graph, CALL: subject.call(potential)}
    ms = {span: wall_time(call, subject) for span, call in spans.items()}
    progress(1)
    notes = []
    if on_device:
        replay = subject.call(CapturedPotential(potential))
        try:
            ms[REPLAY] = wall_time(replay, subject)
            spans[REPLAY] = replay
        except Exception as error:  # what cannot be recorded still runs
            said = [type(error).__name__, *str(error).strip().splitlines()[:1]]
            notes.append(f"No CUDA graph could be recorded: {': '.join(said)}.")
    progress(2)
    with block_ranges(potential):
        events = traced(spans, subject, calls, trace)
    progress(3)
    found = {span: analyse(events, span, on_device=on_device) for span in spans}
    return document(subject, system, found, ms) | {"calls": calls, "notes": notes}


def wall_time(call: Callable[[Batch], Any], subject: Subject) -> float:
    """Milliseconds of a call, median, without the profiler."""
    return measure.single_calls(call, subject.moved, subject.device, SECONDS)


def traced(spans: Spans, subject: Subject, calls: int, trace: Path | None) -> list[Event]:
    """The events of ``calls`` calls of each span; the trace is left at ``trace``."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # its markers go to stderr
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if subject.device.type == "cuda" else [])]
    with profile(activities=activities, acc_events=True) as recorded:
        spans[CALL](subject.batch)  # the profiler's own first use
        for span, call in spans.items():
            for _ in range(calls):
                batch = subject.moved()
                measure.wait(subject.device)
                with record_function(PREFIX + span):
                    call(batch)
                    measure.wait(subject.device)
    with tempfile.TemporaryDirectory() as folder:
        path = trace or Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        return read_trace(path)


@dataclass(frozen=True)
class Counted:
    """What is known of the work of a call: its parts, the rates of the device, and whether those are its limits or were measured."""

    costs: list[Cost]
    rates: Rates
    limits: bool

    @staticmethod
    def of(subject: Subject) -> "Counted":
        known = subject.known_rates()
        return Counted(subject.costs(), known or measured(subject.device, subject.potential.precision.compute), known is not None)

    @property
    def work(self) -> Work | None:
        return Work.of(self.costs, self.rates) if self.costs else None

    def beside(self, ms: float, block: str | None = None, op: str | None = None) -> dict[str, float | None]:
        """The least work of a call, of a block or of an op, and how close ``ms`` comes to its limit; None for what is not known."""
        mine = [cost for cost in self.costs if _is_part(cost, block, op)]
        if not mine:
            return dict.fromkeys(("gflops", "gbytes", "least_ms", "limit_share"))
        work = Work.of(mine, self.rates)
        share = work.least_ms / ms if self.limits and ms else None
        return {"gflops": work.flops / 1e9, "gbytes": work.bytes / 1e9, "least_ms": work.least_ms, "limit_share": share}


def _is_part(cost: Cost, block: str | None, op: str | None) -> bool:
    of_block, ops = COUNTED_IN[cost.op.rstrip(" 0123456789")]
    return block in (None, of_block) and (op is None or op in ops)


def document(subject: Subject, system: str, found: dict[str, Timeline], ms: dict[str, float]) -> dict[str, Any]:
    """The result as JSON types, from the timeline and the time without the profiler of each span; of replays where there are any, with
    those of plain calls under ``eager``."""
    potential, counted = subject.potential, Counted.of(subject)
    machine, versions = hardware.hardware("cuda" if subject.device.type == "cuda" else "cpu"), measure.versions(subject.device)
    search = next(block for block in found[LIST].blocks if block.block == LIST)
    eager = taken_apart(found[CALL], ms[CALL], counted, search)
    captured = taken_apart(found[REPLAY], ms[REPLAY], counted, search) if REPLAY in found else None
    return {
        "schema_name": SCHEMA,
        "package": "mosso",
        "model": potential.name,
        "weights": potential.manifest["provenance"]["source"],
        "system": system,
        "precision": potential.precision.name,
        "device": subject.device.type,
        "gpu": machine.gpu,
        "stress": subject.stress,
        "structures": subject.batch.num_systems,
        "atoms": subject.batch.num_atoms,
        "edges": subject.graph.num_edges,
        "mode": "captured" if captured else "eager",
        **(captured or eager),
        "eager": eager if captured else None,
        "search_ms": ms[LIST],
        "rates": asdict(counted.rates) | {"measured": not counted.limits},
        "versions": {"mosso": VERSION} | versions | ({"driver": machine.driver} if machine.driver else {}),
        "commit": measure.commit(),
        "source": measure.source_hash(),
    }


def taken_apart(ran: Timeline, wall_ms: float, counted: Counted, search: Block) -> dict[str, Any]:
    """What is said of one kind of call; the search for neighbours, which is no part of it, is the last of its blocks."""
    on_device = ran.launches is not None
    # The profiler slows the host, not the device: a GPU is idle for what is left of a call without it. On the CPU it slows all alike.
    busy = min(ran.busy_ms / wall_ms, 1.0) if on_device else ran.busy_ms / ran.span_ms
    return {
        "verdict": verdict(Times(wall_ms, busy, ran.issuing_ms, ran.own_ms, ran.launches), counted.work),
        "wall_ms": wall_ms,
        "profiled_ms": ran.span_ms,
        "busy_ms": ran.busy_ms,
        "gap_ms": max(wall_ms - ran.busy_ms, 0.0) if on_device else None,
        "launches": ran.launches,
        **counted.beside(wall_ms),
        "blocks": [asdict(block) | counted.beside(block.device_ms, block=block.block) for block in (*ran.blocks, search)],
        "ops": [asdict(op) | counted.beside(op.device_ms, op=op.op) for op in ran.ops],
        "kernels": [asdict(kernel) for kernel in ran.kernels],
    }
