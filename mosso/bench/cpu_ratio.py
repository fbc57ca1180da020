"""How mosso compares with mace-torch on the CPU: Cu64 in the MP-0 medium shape, fp32, energy and forces, one run.

``python -m mosso.bench.cpu_ratio --peer-python PATH`` where PATH is the interpreter of an environment with mace-torch.
All sides take turns (mace-torch as it comes, and in its compiled mode), with the neighbour list given and the atoms moved
before every call; nothing is timed before the float32 result agrees with float64.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import torch

from mosso.bench.cases import MP0_MEDIUM, copper
from mosso.data.structure import Batch
from mosso.graph.neighbors import neighbor_list
from mosso.models.base import species_index
from mosso.models.initial import initial_tensors
from mosso.models.mace import MACE
from mosso.models.outputs import evaluate
from mosso.precision import Precision


def time_ours(repeats: int) -> float:
    """Median milliseconds of one energy and force evaluation."""
    tensors = initial_tensors(MP0_MEDIUM)
    single, double = (MACE(MP0_MEDIUM, tensors, Precision.named(name)).eval().requires_grad_(False) for name in ("fp32", "fp64"))
    batch = Batch.of([copper(4)])
    graph, species_N = neighbor_list(batch, MP0_MEDIUM.r_max), species_index(batch.numbers_N, MP0_MEDIUM.species)
    generator = torch.Generator().manual_seed(0)

    def moved() -> Batch:
        return replace(batch, positions_N3=batch.positions_N3 + 0.1 * torch.randn(64, 3, generator=generator, dtype=torch.float64))

    trial = moved()
    got, want = evaluate(single, trial, graph, species_N).forces, evaluate(double, trial, graph, species_N).forces
    assert got is not None
    assert want is not None
    error = float((got - want).abs().max() / want.abs().max())
    if error > 1e-5:
        raise ValueError(f"No time: float32 forces differ from float64 by {error:.1e} of the largest.")
    times = []
    for _ in range(repeats + 2):
        trial = moved()
        start = time.perf_counter()
        evaluate(single, trial, graph, species_N)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[2:])


def time_peer(python: Path, threads: int, repeats: int, *mode: str) -> float:
    """Median milliseconds of mace-torch, measured by its own script in its own environment; ``--compile`` for its compiled mode."""
    script = Path(__file__).parent / "peers" / "mace_torch_cpu.py"
    command = [str(python), str(script), "--threads", str(threads), "--repeats", str(repeats), "--dtype", "float32", *mode]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(result.stdout.strip().splitlines()[-1])["median_ms"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sides: dict[str, list[float]] = {"mosso": [], "mace-torch": [], "mace-torch compiled": []}
    for _ in range(options.rounds):
        sides["mosso"].append(time_ours(options.repeats))
        sides["mace-torch"].append(time_peer(options.peer_python, options.threads, options.repeats))
        sides["mace-torch compiled"].append(time_peer(options.peer_python, options.threads, options.repeats, "--compile"))
    ours, *peers = (statistics.median(times) for times in sides.values())
    ratios = {f"over {name}": round(ours / peer, 3) for name, peer in zip(list(sides)[1:], peers, strict=True)}
    print(json.dumps({"system": "Cu64", "dtype": "float32", "threads": options.threads, **ratios}))


if __name__ == "__main__":
    main()
