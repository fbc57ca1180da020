"""mace-torch at its best: one evaluation, a full calculator call, dynamics, and the largest box that fits.

    python mace_torch_gpu.py weights --shape medium -o medium.model
    python mace_torch_gpu.py measure --weights medium.model --inputs DIR --systems Cu64,W3000 --backends e3nn,cueq -o rows.jsonl

Needs mace-torch 0.3.16 with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1, cuequivariance and its ops for ``cueq``, openequivariance for
``oeq``, both for ``hybrid``; stands alone. ``-compiled`` behind a backend is mace's compiled mode, as its calculator sets it up,
and ``-graphs`` the same with torch's own CUDA graphs. Systems come from npz files with the same atoms and edges for everyone;
answers go back beside them. Rows are JSON lines.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.metadata
import itertools
import json
import math
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms, units
from ase.io.trajectory import Trajectory
from ase.md import MDLogger
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from e3nn import o3
from mace import modules
from mace.calculators import MACECalculator

warnings.filterwarnings("ignore")

NUMBERS = list(range(1, 90))
CUTOFF = 6.0
STEP = 1e-4  # Angstrom, how far atoms move between calls
SHAPES = {"small": "8x0e+8x1o", "medium": "128x0e+128x1o", "large": "128x0e+128x1o+128x2e"}
GAINS = {"node_embedding.linear.weight": 4.0, "interactions.0.linear.weight": 27.0, "interactions.1.linear.weight": 27.0}
WARM_UP, MIN_CALLS, MAX_CALLS = 20, 5, 50
BACKENDS = ("e3nn", "cueq", "oeq", "hybrid")
COMPILE_MODES = {"compiled": "default", "graphs": "reduce-overhead"}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Graph = dict[str, torch.Tensor]


def build(shape: str) -> torch.nn.Module:
    """The MP-0 shape with random weights in float64."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    block = modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    model = modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=10,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=block,
        interaction_cls_first=block,
        num_interactions=2,
        num_elements=len(NUMBERS),
        hidden_irreps=o3.Irreps(SHAPES[shape]),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(NUMBERS)),
        avg_num_neighbors=61.96,
        atomic_numbers=NUMBERS,
        correlation=3,
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(GAINS.get(name, 1.0))
    return model


class Prepared(NamedTuple):
    """A model in one of mace's backends; compiled models are called as mace.calculators.MACECalculator calls them."""

    module: torch.nn.Module
    compiled: bool
    training: bool


def prepared(weights: Path, backend: str, dtype: torch.dtype) -> Prepared:
    """The model set up as mace's own calculator does it."""
    torch.set_default_dtype(dtype)
    model = torch.load(weights, map_location=DEVICE, weights_only=False).to(dtype)
    kind, _, mode = backend.partition("-")
    if kind not in BACKENDS or (mode and mode not in COMPILE_MODES):
        raise ValueError(f"Unknown backend {backend!r}: choose of {BACKENDS}, alone or with one of {list(COMPILE_MODES)} behind a dash.")
    if kind != "e3nn":
        model = importlib.import_module(f"mace.cli.convert_e3nn_{kind}").run(model, device=DEVICE).to(DEVICE)
    differentiated_inside = bool(mode) and kind in ("e3nn", "cueq")
    if mode:
        from mace.tools.compile import configure_autograd_for_compile, disable_e3nn_codegen, prepare, simplify
        from mace.tools.scripts_utils import extract_model

        configure_autograd_for_compile(allow_autograd=differentiated_inside)
        if kind == "e3nn":
            model = torch.compile(prepare(extract_model)(model=model, map_location=DEVICE), mode=COMPILE_MODES[mode], fullgraph=True)
        else:
            with disable_e3nn_codegen():
                model = torch.compile(simplify(model), mode=COMPILE_MODES[mode], fullgraph=False)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Prepared(model, bool(mode), differentiated_inside)


def read_graph(path: Path, dtype: torch.dtype) -> Graph:
    """What mace's models take, from an npz of atoms and edges."""
    arrays = np.load(path)
    cell = torch.from_numpy(arrays["cell"])
    system, senders = torch.from_numpy(arrays["system"]), torch.from_numpy(arrays["senders"]).long()
    unit_shifts = torch.from_numpy(arrays["shifts"]).double()
    species = torch.from_numpy(np.searchsorted(NUMBERS, arrays["numbers"]))
    counts = torch.bincount(system, minlength=len(cell))
    graph = {
        "positions": torch.from_numpy(arrays["positions"]),
        "node_attrs": torch.nn.functional.one_hot(species, len(NUMBERS)).to(dtype),
        "edge_index": torch.stack([senders, torch.from_numpy(arrays["receivers"]).long()]),
        "unit_shifts": unit_shifts,
        "shifts": torch.einsum("ea,eab->eb", unit_shifts, cell[system[senders]]) if len(cell) > 1 else unit_shifts @ cell[0],
        "cell": cell.reshape(-1, 3),
        "batch": system,
        "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
    }
    return {name: (t.to(dtype) if t.is_floating_point() else t).to(DEVICE) for name, t in graph.items()}


def moved(model: Prepared, graph: Graph, step: float = STEP) -> Graph:
    """The graph with freshly moved atoms; a new dictionary, because mace writes strained positions and shifts into it."""
    positions = graph["positions"] + step * torch.randn_like(graph["positions"])
    return graph | {"positions": positions.requires_grad_(model.compiled)}


def evaluate(model: Prepared, stress: bool, graph: Graph) -> dict[str, torch.Tensor]:
    """Energy, forces and perhaps stress."""
    output = model.module(graph, training=model.training, compute_stress=stress)
    return {name: output[name].detach() for name in ("energy", "forces", "stress") if output.get(name) is not None}


def synchronize() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], Any]) -> float:
    """Milliseconds of one call, the device idle before and after."""
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return 1e3 * (time.perf_counter() - start)


def median_time(call: Callable[[Any], Any], prepare: Callable[[], Any], seconds: float) -> dict[str, float]:
    """Milliseconds after WARM_UP calls, or fewer where these would take more than 2 ``seconds``; ``prepare`` is not timed."""

    def once() -> float:
        prepared = prepare()
        return timed(lambda: call(prepared))

    last, spent = once(), 0.0
    for _ in range(WARM_UP):
        if spent < 2e3 * seconds:
            last = once()
            spent += last
    times = sorted(once() for _ in range(min(max(int(1e3 * seconds / last), MIN_CALLS), MAX_CALLS)))
    return {"ms": statistics.median(times), "ms_p5": times[len(times) // 20], "ms_p95": times[-1 - len(times) // 20]}


@contextlib.contextmanager
def peak_memory(row: dict[str, Any]) -> Iterator[None]:
    """Adds the peak of tensors on the device to a row, GB."""
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield
    if DEVICE == "cuda":
        row["peak_GB"] = torch.cuda.max_memory_allocated() / 1e9


def longest_kernels(call: Callable[[], Any], most: int = 4) -> list[str]:
    """Names of the kernels that take longest: tells whether a backend's own kernels run."""
    if DEVICE != "cuda":
        return []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        call()
        synchronize()
    events = sorted(recorded.key_averages(), key=lambda event: -event.device_time_total)
    return [event.key[:80] for event in events[:most]]


def step_rows(options: argparse.Namespace, backend: str, dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """One row per system, with and without stress; answers are stored for whoever knows the truth."""
    model = prepared(options.weights, backend, dtype)
    for system, stress in itertools.product(options.systems, (False, True)):
        row: dict[str, Any] = {"kind": "step", "system": system, "stress": stress}
        try:
            with peak_memory(row):
                graph = read_graph(options.inputs / f"{system}.npz", dtype)
                torch._dynamo.reset()  # compiled for the shapes of one system, never for shapes in general
                row |= {"atoms": len(graph["positions"]), "edges": graph["edge_index"].shape[1]}
                call, prepare = functools.partial(evaluate, model, stress), functools.partial(moved, model, graph)
                answer = call(moved(model, graph, step=0.0))
                row["answer"] = f"answer-{backend}-{system}-{'stress' if stress else 'forces'}.npz"
                np.savez(options.inputs / row["answer"], **{key: value.double().cpu().numpy() for key, value in answer.items()})
                row |= median_time(call, prepare, options.seconds)
            if not stress:
                row["kernels"] = longest_kernels(lambda call=call, prepare=prepare: call(prepare()))
        except (RuntimeError, ValueError, ImportError) as error:
            row["error"] = (str(error).splitlines() or [repr(error)])[0][:300]
        yield row
        graph = answer = call = prepare = None


def make_calculator(options: argparse.Namespace, backend: str) -> MACECalculator:
    """The calculator a user of ASE gets."""
    model = torch.load(options.weights, map_location=DEVICE, weights_only=False).float()
    kind, _, mode = backend.partition("-")
    flags = {"enable_cueq": kind in ("cueq", "hybrid"), "enable_oeq": kind in ("oeq", "hybrid"), "compile_mode": COMPILE_MODES.get(mode)}
    return MACECalculator(models=[model], device=DEVICE, default_dtype="float32", **flags)


def read_atoms(path: Path) -> Atoms:
    """The one structure of an npz."""
    arrays = np.load(path)
    return Atoms(arrays["numbers"], arrays["positions"], cell=arrays["cell"][0], pbc=True)


def calculator_rows(options: argparse.Namespace, backend: str) -> Iterator[dict[str, Any]]:
    """A full call of the calculator on moved atoms: neighbour list, energy, forces, stress."""
    calculator = make_calculator(options, backend)
    for system in options.calculator_systems:
        atoms = read_atoms(options.inputs / f"{system}.npz")
        start = atoms.positions.copy()
        generator = np.random.default_rng(0)

        def move(atoms: Atoms = atoms, start: np.ndarray = start, generator: np.random.Generator = generator) -> Atoms:
            atoms.positions = start + STEP * generator.normal(size=start.shape)
            return atoms

        def call(atoms: Atoms) -> None:
            calculator.calculate(atoms, ["energy", "forces"], ["positions"])

        yield {"kind": "calculator", "system": system, "atoms": len(atoms), **median_time(call, move, options.seconds)}


def dynamics_row(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    """Constant-temperature dynamics with ASE: log every 10 steps, frame every 100."""
    atoms = read_atoms(options.inputs / f"{options.dynamics}.npz")
    atoms.calc = make_calculator(options, backend)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300.0, rng=np.random.default_rng(0))
    dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=300.0, friction=0.01 / units.fs, rng=np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        dynamics.attach(MDLogger(dynamics, atoms, str(Path(folder, "run.log"))), interval=10)
        with Trajectory(str(Path(folder, "run.traj")), "w", atoms) as trajectory:
            dynamics.attach(trajectory.write, interval=100)
            dynamics.run(20)
            ms = timed(lambda: dynamics.run(options.dynamics_steps))
    return {"kind": "md", "system": options.dynamics, "atoms": len(atoms), "steps_per_s": 1e3 * options.dynamics_steps / ms}


def repeated_graph(cell: Graph, repeats: tuple[int, int, int]) -> Graph:
    """The graph of one structure copied side by side; a search over the large box would take minutes."""
    atoms, sizes = len(cell["positions"]), torch.tensor(repeats, device=DEVICE)
    copies = torch.cartesian_prod(*(torch.arange(n, device=DEVICE) for n in repeats)).reshape(-1, 3)
    shifts = cell["unit_shifts"].long()
    sender_copies = (copies[:, None] - shifts) % sizes
    unit_shifts = ((shifts - copies[:, None] + sender_copies) // sizes).flatten(0, 1).to(cell["unit_shifts"].dtype)
    index = (sender_copies[..., 0] * repeats[1] + sender_copies[..., 1]) * repeats[2] + sender_copies[..., 2]
    senders = (index * atoms + cell["edge_index"][0]).flatten()
    receivers = (torch.arange(len(copies), device=DEVICE)[:, None] * atoms + cell["edge_index"][1]).flatten()
    order = torch.argsort(senders)
    lattice = sizes[:, None] * cell["cell"]
    return {
        "positions": (copies[:, None].to(cell["cell"].dtype) @ cell["cell"] + cell["positions"]).flatten(0, 1),
        "node_attrs": cell["node_attrs"].repeat(len(copies), 1),
        "edge_index": torch.stack([senders, receivers])[:, order],
        "unit_shifts": unit_shifts[order],
        "shifts": (unit_shifts @ lattice)[order],
        "cell": lattice,
        "batch": torch.zeros(atoms * len(copies), dtype=torch.int64, device=DEVICE),
        "ptr": torch.tensor([0, atoms * len(copies)], device=DEVICE),
    }


def largest_row(options: argparse.Namespace, backend: str, dtype: torch.dtype) -> dict[str, Any]:
    """The last of growing boxes that fits, from the first number of cells given."""
    model = prepared(options.weights, backend, dtype)
    best: dict[str, Any] = {"kind": "largest", "error": "the first box does not fit"}
    growing = (shape for n in itertools.count(1) for shape in ((n, n, n), (n, n, n + 1), (n, n + 1, n + 1)))
    for shape in growing:
        if math.prod(shape) < options.largest_from:
            continue
        row: dict[str, Any] = {"kind": "largest"}
        try:
            with peak_memory(row):
                graph = repeated_graph(read_graph(options.inputs / f"{options.largest}.npz", dtype), shape)
                row |= {"atoms": len(graph["positions"]), "edges": graph["edge_index"].shape[1]}
                timed(lambda graph=graph: evaluate(model, False, moved(model, graph)))
                row["ms"] = timed(lambda graph=graph: evaluate(model, False, moved(model, graph)))
        except torch.cuda.OutOfMemoryError:
            return best
        best, graph = row, None
    return best


def rows(options: argparse.Namespace, backend: str) -> Iterator[dict[str, Any]]:
    """Everything asked for of one backend; what fails says so and the rest goes on."""
    dtype = torch.float32
    parts: list[Callable[[], Iterator[dict[str, Any]]]] = []
    if options.systems:
        parts.append(lambda: step_rows(options, backend, dtype))
    if options.calculator_systems:
        parts.append(lambda: calculator_rows(options, backend))
    if options.dynamics:
        parts.append(lambda: iter([dynamics_row(options, backend)]))
    if options.largest:
        parts.append(lambda: iter([largest_row(options, backend, dtype)]))
    for part in parts:
        try:
            yield from part()
        except Exception as error:  # a backend that cannot be built must not take the others with it
            yield {"kind": "failure", "error": repr(error)[:300]}


def versions() -> dict[str, str]:
    """Of what decides the times."""
    found = {}
    for name in ("mace-torch", "e3nn", "cuequivariance", "cuequivariance-ops-torch-cu13", "openequivariance", "torch", "ase"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("weights")
    make.add_argument("--shape", choices=list(SHAPES), required=True)
    measure = verbs.add_parser("measure")
    measure.add_argument("--weights", type=Path, required=True)
    measure.add_argument("--inputs", type=Path, required=True)
    measure.add_argument("--systems", type=names, default=[])
    measure.add_argument("--calculator-systems", type=names, default=[])
    measure.add_argument("--dynamics", default="", help="system")
    measure.add_argument("--dynamics-steps", type=int, default=100)
    measure.add_argument("--largest", default="", help="system that is copied")
    measure.add_argument("--largest-from", type=int, default=64, help="copies of the first box")
    measure.add_argument("--backends", type=names, default=["e3nn", "cueq"])
    measure.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    for verb in (make, measure):
        verb.add_argument("-o", "--out", type=Path, required=True)
    options = parser.parse_args()
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if options.verb == "weights":
        torch.save(build(options.shape), options.out)
        return
    common = {"side": "mace-torch", "precision": "fp32", "versions": versions()}
    with options.out.open("a", encoding="utf-8") as file:
        for backend in options.backends:
            for row in rows(options, backend):
                print(json.dumps(common | {"name": backend} | row), file=file, flush=True)


if __name__ == "__main__":
    main()
