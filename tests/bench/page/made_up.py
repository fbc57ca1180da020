"""Rows as the suite writes them, with made-up numbers, for tests of the report. No name in them is that of a real competitor, but ours."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mosso.bench.rows import Hardware, Row, append_row

GPU = "Made-up GPU"
HARDWARE = Hardware(device="cuda", gpu=GPU, driver="1.2.3", cpu="Made-up CPU", threads=16)
# Package and backend -> milliseconds that do not depend on size, microseconds per atom, GB per thousand atoms.
COMPETITORS = {
    ("mosso", "captured"): (0.45, 1.9, 0.4),
    ("mosso", "eager"): (3.1, 2.2, 0.5),
    ("alpha", "plain"): (19.0, 60.0, 9.0),
    ("alpha", "fused"): (34.0, 9.0, 1.8),
    ("beta", "compiled"): (6.2, 1.2, 3.0),
}
# Model -> how much more it costs, its architecture.
MODELS = {"made-up-small": (0.5, "Made-up"), "made-up-medium": (1.0, "Made-up"), "mace-mpa-0-medium": (1.4, "Made-up like MACE")}
SYSTEMS = {"Cu64": 64, "C8": 8, "C216": 216, "C1000": 1000, "W24": 24, "W192": 192, "W648": 648, "W3000": 3000, "W24000": 24000}
BATCHES = {"Cu64": (1, 16)}
ERRORS = {"fp64": 0.0, "fp32": 2e-7, "tf32": 4e-4}
FASTER = {"fp64": 2.2, "fp32": 1.0, "tf32": 0.7}


def row(**fields: Any) -> Row:
    """One row that passed its check; ``fields`` replace what it holds."""
    usual: dict[str, Any] = {
        "status": "ok", "task": "forces", "model": "made-up-medium", "architecture": "Made-up", "package": "mosso", "backend": "captured",
        "weights": "random", "parameters": 4_700_000, "precision": "fp32", "tf32": False, "system": "Cu64", "atoms": 64, "edges": 4992,
        "ms": 1.0, "ms_p5": 0.97, "ms_p95": 1.08, "ms_low": 0.99, "ms_high": 1.01, "calls": 100, "rounds": 5, "warm_up": 10,
        "atoms_per_s": 64e3, "ns_per_day": 86.4, "peak_memory_GB": 0.3, "memory_of": "device", "first_call_s": 4.2,
        "error_energy": 1e-8, "error_forces": 3e-7, "error_forces_relative": 1e-7, "truth": "fp64 of mosso, reference", "tolerance": "fp32",
        "clock_MHz": (1980.0, 1965.0), "temperature_C": (41.0, 52.0), "hardware": HARDWARE,
        "versions": {"python": "3.12.0", "torch": "2.11.0"}, "commit": "0123456789abcdef", "source": "made up",
        "command": "mosso bench --models made-up-medium --systems Cu64", "started": "2026-11-21T10:00:00Z",
    }  # fmt: skip
    return Row(**usual | fields)


def rows(seed: int = 0, faster: float = 1.0, commit: str = "0123456789abcdef") -> list[Row]:
    """A whole matrix; times of ours are ``faster`` times shorter than in another matrix of the same seed."""
    random = np.random.default_rng(seed)
    return list(_matrix(random, faster, commit)) + _singles(commit) + _without_a_time(commit)


def _matrix(random: np.random.Generator, faster: float, commit: str) -> Iterator[Row]:
    cases = itertools.product(MODELS, COMPETITORS, ERRORS, SYSTEMS.items(), ("forces", "stress", "forces+list"))
    for model, (package, backend), precision, (system, atoms), task in cases:
        if precision == "tf32" and package == "alpha":
            continue
        for batch in BATCHES.get(system, (1,)):
            fixed, per_atom, memory = COMPETITORS[package, backend]
            ms = (fixed + 1e-3 * per_atom * atoms * batch) * MODELS[model][0] * FASTER[precision] * random.uniform(0.97, 1.03)
            ms *= {"forces": 1.0, "stress": 1.15, "forces+list": 1.3}[task] / (faster if package == "mosso" else 1.0)
            spread = random.uniform(0.003, 0.02)
            needed = memory * (0.02 + atoms * batch / 1000) * MODELS[model][0]
            common = {
                "model": model, "architecture": MODELS[model][1], "package": package, "backend": backend, "precision": precision,
                "system": system, "atoms": atoms * batch, "edges": 60 * atoms * batch, "batch": batch, "task": task, "commit": commit,
                "tf32": precision == "tf32", "tolerance": precision, "weights": "official" if model == "mace-mpa-0-medium" else "random",
                "versions": {"python": "3.12.0", "torch": "2.11.0", package: "1.0"},
            }  # fmt: skip
            if needed > 139:
                yield without_a_time(row(**common), "error", "out of memory")
                continue
            error = ERRORS[precision] * random.uniform(0.5, 2.0)
            yield row(
                **common, ms=ms, ms_p5=ms * (1 - 2 * spread), ms_p95=ms * (1 + 4 * spread),
                ms_low=ms * (1 - spread), ms_high=ms * (1 + spread), peak_memory_GB=needed,
                atoms_per_s=1e3 * atoms * batch / ms, ns_per_day=86.4 / ms if task == "forces+list" else None,
                error_energy=error / 30, error_forces=error, error_forces_relative=error / 2,
                truth="fp32 of beta, compiled" if package == "beta" else "fp64 of mosso, reference",
            )  # fmt: skip


def _singles(commit: str) -> list[Row]:
    """The largest system, and the time to start."""
    no_time: dict[str, Any] = dict.fromkeys(("ms", "ms_p5", "ms_p95", "ms_low", "ms_high", "atoms_per_s", "ns_per_day", "calls", "rounds"))
    found = []
    for place, (package, backend) in enumerate(COMPETITORS):
        common = no_time | {"package": package, "backend": backend, "commit": commit}
        found.append(row(**common, task="largest", system="water", atoms=300_000 // (place + 1), peak_memory_GB=130.0))
        found.append(row(**common, task="startup", start_s=4.0, load_s=0.5, first_call_s=2.0 + 20 * place))
    return found


def without_a_time(some: Row, status: str, reason: str, **fields: Any) -> Row:
    """The row of something that was refused, cannot be done, or failed."""
    measured = ("ms", "ms_p5", "ms_p95", "ms_low", "ms_high", "atoms_per_s", "ns_per_day", "peak_memory_GB")
    return Row(**some.model_dump() | dict.fromkeys(measured) | {"status": status, "reason": reason} | fields)


def _without_a_time(commit: str) -> list[Row]:
    return [
        without_a_time(row(package="gamma", backend="half", precision="fp16", commit=commit), "refused", "force error beyond 1e-3 eV/A",
                       error_forces=0.021, tolerance="fp16"),
        without_a_time(row(package="beta", backend="plain", task="md", commit=commit), "unsupported", "this package offers no dynamics"),
        without_a_time(row(package="delta", backend="plain", commit=commit), "error", "ImportError: <b>needs</b> </script> another torch",
                       error_forces=None, error_energy=None, truth=None),
    ]  # fmt: skip


def write(path: Path, some: list[Row]) -> Path:
    """A file of rows."""
    for one in some:
        append_row(path, one)
    return path


PROFILE = {
    "schema_name": "mosso-profile/2", "device": "cuda", "gpu": GPU, "mode": "graph replay", "wall_ms": 1.9, "gap_ms": 1.35, "gflops": 2.0,
    "gbytes": 0.31, "limit_share": 0.07, "launches": 55,
    "kernels": [{"kernel": "gemm<float, 64, 64>", "launches": 8.0, "us": 210.0, "share": 0.38}],
    "model": "made-up-medium", "system": "Cu64", "package": "mosso", "backend": "eager", "precision": "fp32",
    "verdict": "launch-bound: the device waits 71 % of the time",
    "blocks": [
        {"block": "embedding", "device_ms": 0.08, "host_ms": 0.42, "launches": 14},
        {"block": "interaction 1", "device_ms": 0.31, "host_ms": 0.77, "launches": 22},
        {"block": "product 1", "device_ms": 0.19, "host_ms": 0.38, "launches": 9},
        {"block": "readout", "device_ms": 0.03, "host_ms": 0.2, "launches": 6},
        {"block": "neighbour list", "device_ms": 0.12, "host_ms": None, "launches": 4},
    ],
}  # fmt: skip
