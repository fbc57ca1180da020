"""Time of one evaluation of MACE (energy, forces, stress) by system and implementation, each checked before it is timed.

``python -m mosso.bench.mace_steps --systems Cu64,C1000 --variants reference,triton,triton+graph -o results.jsonl``

A variant is the implementation of the ops (``reference`` or ``triton``), with ``+graph`` for one CUDA graph per evaluation.
The neighbour list is given; atoms move before every call. A row is written for every pair of system and variant: its time, or
why there is none. No time stands in a row whose forces differ from float64 (reference ops) by more than ``MAX_ERROR``.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mosso.bench.cases import MODELS, SYSTEMS
from mosso.data.structure import Batch
from mosso.engine.capture import CapturedPotential
from mosso.engine.potential import Potential, find_device
from mosso.kernels import dispatch
from mosso.models.initial import initial_tensors
from mosso.models.mace import MACE, MACESpec
from mosso.precision import Precision
from mosso.weights.checkpoint import Checkpoint

MAX_ERROR = {"fp64": 1e-10, "fp32": 5e-6}  # relative root mean square of the forces
WARM_UP = 5
ROW_VERSION = 1


def make_potential(spec: MACESpec, precision: str, device: torch.device) -> Potential:
    """The shape with random weights from a fixed seed."""
    tensors = initial_tensors(spec)
    description = MACE(spec, tensors, Precision.named(precision)).describe()
    provenance = {"source": "random weights", "sha256": None, "licence": "none", "citation": "", "dtype": "float64"}
    return Potential(Checkpoint("mace", description, tensors, provenance), device=device, precision=precision)


def measure(potential: Potential, exact: Potential, system: str, variant: str, repeats: int, stress: bool) -> dict[str, Any]:
    """One row: the time and the error of one variant on one system."""
    ops, _, graph_suffix = variant.partition("+")
    example = torch.empty(0, dtype=potential.precision.compute, device=potential.device)
    if ops == "triton" and (reason := dispatch.triton_obstacle(example)):
        raise ValueError(f"The triton ops cannot run here: {reason}.")
    if graph_suffix not in ("", "graph"):
        raise ValueError(f"Unknown variant {variant!r}: write reference or triton, with +graph or without.")
    runner = CapturedPotential(potential) if graph_suffix else potential
    batch = potential.batch(SYSTEMS[system]())
    generator = torch.Generator(batch.positions_N3.device).manual_seed(0)

    def moved(size: float) -> Batch:
        noise = torch.randn(batch.positions_N3.shape, generator=generator, device=batch.positions_N3.device, dtype=torch.float64)
        return replace(batch, positions_N3=batch.positions_N3 + size * noise)

    batch = moved(0.05)  # off the perfect lattice, where forces cancel
    graph = potential.graph(batch)
    row: dict[str, Any] = {"system": system, "variant": variant, "stress": stress, "atoms": batch.num_atoms, "edges": graph.num_edges}
    with dispatch.prefer("reference"):
        want = exact.evaluate(batch, graph).forces
    with dispatch.prefer(ops):
        got = runner.evaluate(batch, graph, stress=stress).forces
        assert got is not None
        assert want is not None
        error = float((got - want).norm() / want.norm())
        row["relative_rms_force_error"] = error
        if not error <= MAX_ERROR[potential.precision.name]:
            return row | {"error": f"forces differ from float64 by {error:.1e}: not timed"}
        times = time_calls(lambda: runner.evaluate(moved(1e-4), graph, stress=stress), potential.device, repeats)
    row |= {"ms": statistics.median(times), "ms_p5": times[len(times) // 20], "ms_p95": times[-1 - len(times) // 20]}
    if potential.device.type == "cuda":
        row["peak_GB"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def time_calls(call: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Sorted milliseconds of single calls, the device idle before and after each."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(WARM_UP):
        call()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        call()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)


def environment(device: torch.device) -> dict[str, Any]:
    """What a row needs to be understood later."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    found: dict[str, Any] = {
        "row_version": ROW_VERSION,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit or None,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"gpu": properties.name, "cuda": torch.version.cuda, "tf32": torch.backends.cuda.matmul.allow_tf32}
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), default="mace-mp0-medium")
    parser.add_argument("--systems", default="Cu64,C216,Cu64x16,C1000,W3000")
    parser.add_argument("--variants", default="reference,triton,triton+graph")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--no-stress", action="store_true")
    parser.add_argument("-o", "--out", type=Path, required=True, help="rows are appended, one JSON document per line")
    options = parser.parse_args()
    unknown = [name for name in options.systems.split(",") if name not in SYSTEMS]
    if unknown:
        sys.exit(f"Unknown systems {', '.join(unknown)}: choose from {', '.join(SYSTEMS)}.")
    device = find_device(options.device)
    potential, exact = (make_potential(MODELS[options.model], precision, device) for precision in (options.precision, "fp64"))
    common = {"model": options.model, "precision": options.precision, "device": str(device), **environment(device)}
    with open(options.out, "a", encoding="utf-8") as file:
        for system in options.systems.split(","):
            for variant in options.variants.split(","):
                try:
                    row = measure(potential, exact, system, variant, options.repeats, not options.no_stress)
                except (RuntimeError, ValueError) as error:  # out of memory, or a variant that cannot run here
                    row = {"system": system, "variant": variant, "error": str(error).splitlines()[0]}
                file.write(json.dumps(common | row) + "\n")
                file.flush()
                print(
                    {key: row[key] for key in row if key in ("system", "variant", "atoms", "edges", "ms", "peak_GB", "error")}, flush=True
                )


if __name__ == "__main__":
    main()
