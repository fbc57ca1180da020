"""From the series of all runs to averages and their differences: one JSON file and a Markdown table."""

from __future__ import annotations

import argparse
import json
import math
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from averages import Average, Series, average, relative_variance, settled, sigmas

from mosso.bench.hardware import hardware
from mosso.bench.measure import commit, source_hash, versions
from mosso.dynamics.units import ATOMIC_MASSES, BAR, GRAM_PER_CM3, KB
from mosso.engine.potential import find_device

POINTS = 400  # of a replica's density in the file
GOAL = 0.003  # relative standard error of a density
AGREE = 3.0  # standard errors
ASE = ("ase-mtk", "ase-langevin")  # one ensemble, so they are also averaged together
PAIRS = (
    ("mosso-isotropic", "ase"),
    ("mosso-isotropic", "ase-mtk"),
    ("mosso-isotropic", "ase-langevin"),
    ("mosso-anisotropic", "ase"),
    ("mosso-anisotropic", "mosso-isotropic"),
    ("ase-mtk", "ase-langevin"),
)
RUN_ONLY = {"verb", "folder", "out", "coupling", "barostat", "number", "until", "steps"}  # options that say nothing of the study
Replica = dict[str, Any]


def read_runs(folder: Path) -> dict[str, list[Replica]]:
    """Replicas by side: arrays (T,) of time, density, temperature and pressure, and ``start`` 0 for a dense one, 1 for a thin one."""
    sides: dict[str, list[Replica]] = {}
    for path in sorted(folder.glob("*-*.npz")):
        with np.load(path) as run:
            about, time = json.loads(str(run["about"])), run["time"]
            for b, start in enumerate(about["starts"]):
                replica = {name: run[name][b] for name in ("density", "temperature", "pressure")}
                sides.setdefault(about["side"], []).append(replica | {"time": time, "start": start, "seconds": about["seconds"]})
    return sides


def judge(replicas: list[Replica], mass: float, options: argparse.Namespace) -> dict[str, Any]:
    """Averages of one side. ``mass`` is that of a replica in amu."""
    interval = options.every * options.timestep / 1000.0
    first = math.ceil(options.cut / interval)

    def kept(name: str, start: int | None = None) -> Series:
        return [settled(r[name], first) for r in replicas if start in (None, r["start"])]

    density, pressure, temperature = (average(kept(name)) for name in ("density", "pressure", "temperature"))
    volumes = [GRAM_PER_CM3 * mass / one for one in kept("density")]
    per_bar = BAR / (KB * options.temperature)
    kappa, kappa_error = (per_bar * value for value in relative_variance(volumes))
    judged = {
        "replicas": len(replicas),
        "ps_per_replica": [round(float(r["time"][-1]), 2) for r in replicas],
        "ps_kept": round(density.samples * interval, 1),
        "steps_per_second": round(1000.0 * float(replicas[0]["time"][-1]) / options.timestep / max(replicas[0]["seconds"], 1e-9), 1),
        "density_g_per_cm3": written(density, interval),
        "density_goal_reached": bool(density.error < GOAL * density.mean),
        "volume_mean_A3": float(np.concatenate(volumes).mean()),
        "volume_deviation_A3": float(np.concatenate(volumes).std()),
        "compressibility_per_bar": {"mean": kappa, "error": kappa_error},
        "temperature_K": written(temperature, interval),
        "pressure_bar": written(pressure, interval) | {"sigmas_from_target": (pressure.mean - options.pressure) / pressure.error},
    }
    if {r["start"] for r in replicas} == {0, 1}:
        dense, thin = average(kept("density", 0)), average(kept("density", 1))
        judged["dense_starts_minus_thin_ones"] = difference((dense.mean, dense.error), (thin.mean, thin.error))
    return judged


def written(found: Average, interval: float) -> dict[str, float | None]:
    """An average as it stands in the file; the integrated correlation time is half the inefficiency."""
    numbers = {
        "mean": found.mean,
        "error": found.error,
        "error_from_replicas": found.error_from_replicas,
        "error_from_blocks": found.error_from_blocks,
        "deviation": found.deviation,
        "correlation_time_ps": 0.5 * found.inefficiency * interval,
    }
    return {name: float(value) for name, value in numbers.items()}


def difference(a: tuple[float, float], b: tuple[float, float]) -> dict[str, float]:
    return {"difference": a[0] - b[0], "percent": 100.0 * (a[0] / b[0] - 1.0), "sigmas": sigmas(a, b)}


def compare(judged: dict[str, dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    """The pairs that are there, for one of the averages."""
    pairs = [(a, b) for a, b in PAIRS if a in judged and b in judged]
    values = {side: (one[name]["mean"], one[name]["error"]) for side, one in judged.items()}
    found = {f"{a} - {b}": difference(values[a], values[b]) for a, b in pairs}
    return {pair: one | {"agree": abs(one["sigmas"]) < AGREE} for pair, one in found.items()}


def report(options: argparse.Namespace) -> None:
    """Writes the file and prints the table."""
    runs = read_runs(options.folder)
    if not runs:
        raise SystemExit(f"There are no runs in {options.folder}: see the .log files there.")
    with np.load(options.folder / "starts.npz") as starts:
        mass = float(np.array(ATOMIC_MASSES)[starts["numbers"]].sum())
    sides = dict(runs)
    if all(side in runs for side in ASE):
        sides["ase"] = [replica for side in ASE for replica in runs[side]]
    for side, replicas in runs.items():
        shortest = min(float(replica["time"][-1]) for replica in replicas)
        if shortest <= options.cut:
            raise SystemExit(f"{side} ran for {shortest:.1f} ps, of which {options.cut:g} are cut: give a shorter --cut, or longer runs.")
    judged = {side: judge(replicas, mass, options) for side, replicas in sides.items()}
    device = find_device(options.device)
    inputs = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items() if name not in RUN_ONLY}
    inputs["structure"] = options.structure.name
    content = {
        "study": "water_density",
        "date": datetime.now(UTC).date().isoformat(),
        "inputs": inputs,
        "hardware": hardware(device.type).model_dump(),
        "versions": versions(device) | {name: version(name) for name in ("ase", "numpy")},
        "commit": commit(),
        "source": source_hash(),
        "rules": {
            "equilibration": f"the first {options.cut:g} ps of every run, or the first fifth where that is more, are left out",
            "agreement": f"a difference below {AGREE:g} of its standard errors",
            "goal": f"a standard error of the density below {GOAL:.1%}",
        },
        "sides": judged,
        "density": compare(judged, "density_g_per_cm3"),
        "compressibility": compare(judged, "compressibility_per_bar"),
        "series": {side: [thinned(replica) for replica in replicas] for side, replicas in runs.items()},
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(as_json(content))
    print(table(judged, content["density"], content["compressibility"]))
    print(f"\nWritten: {options.out}")


def thinned(replica: Replica) -> dict[str, Any]:
    """At most POINTS densities, equally far apart in time."""
    stride = math.ceil(len(replica["density"]) / POINTS)
    values = [round(float(value), 4) for value in replica["density"][::stride]]
    step = float(replica["time"][1] - replica["time"][0]) if len(replica["time"]) > 1 else 0.0
    return {"interval_ps": round(stride * step, 6), "density_g_per_cm3": values}


def as_json(content: dict[str, Any]) -> str:
    """A line for every entry of the entries; what is not a number becomes null."""

    def entry(value: Any, depth: int) -> str:
        if not isinstance(value, dict) or depth == 2:
            return json.dumps(finite(value), allow_nan=False)
        lines = (f"{' ' * (depth + 1)}{json.dumps(name)}: {entry(one, depth + 1)}" for name, one in value.items())
        return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"

    return entry(content, 0) + "\n"


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(judged: dict[str, dict[str, Any]], density: dict[str, Any], compressibility: dict[str, Any]) -> str:
    """Two Markdown tables: the sides, and their differences."""
    columns = ["side", "replicas", "ps kept", "density (g/cm3)", "its correlation time (ps)", "compressibility (1e-6/bar)"]
    columns += ["temperature (K)", "pressure (bar)"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for side, one in judged.items():
        rho, kappa = one["density_g_per_cm3"], one["compressibility_per_bar"]
        cells = [side, str(one["replicas"]), f"{one['ps_kept']:.0f}", f"{rho['mean']:.4f} ± {rho['error']:.4f}"]
        cells += [f"{rho['correlation_time_ps']:.2f}", f"{1e6 * kappa['mean']:.1f} ± {1e6 * kappa['error']:.1f}"]
        cells += [f"{one[key]['mean']:.1f} ± {one[key]['error']:.1f}" for key in ("temperature_K", "pressure_bar")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| difference | density (%) | in standard errors | compressibility, in standard errors |", "|---|---|---|---|"]
    for pair, one in density.items():
        lines.append(f"| {pair} | {one['percent']:+.2f} | {one['sigmas']:+.1f} | {compressibility[pair]['sigmas']:+.1f} |")
    return "\n".join(lines)
