"""Time mace-torch on the CPU: 64 copper atoms, the MP-0 medium shape, random weights.

    python mace_torch_cpu.py --threads 2 --repeats 5 --dtype float32

Times energy and forces with the graph given; the atoms are jiggled before every step.
Prints one JSON line. Needs mace-torch (0.3.16 with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1); stands alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import e3nn
import mace
import numpy as np
import torch
from ase.build import bulk
from e3nn import o3
from mace import data, modules
from mace.tools import AtomicNumberTable, torch_geometric
from mace.tools.compile import prepare

NUMBERS = [*range(1, 84), *range(89, 95)]
CUTOFF = 6.0
JIGGLE = 1e-4  # Angstrom


def build_model() -> torch.nn.Module:
    """The MP-0 medium shape in torch's default dtype."""
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
        hidden_irreps=o3.Irreps("128x0e + 128x1o"),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(len(NUMBERS)),
        avg_num_neighbors=61.964672446250916,
        atomic_numbers=NUMBERS,
        correlation=3,
        radial_type="bessel",
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def build_graph() -> dict[str, torch.Tensor]:
    """64 atoms of fcc copper with all edges shorter than the cutoff."""
    atoms = bulk("Cu", "fcc", a=3.61).repeat((4, 4, 4))
    config = data.config_from_atoms(atoms)
    graph = data.AtomicData.from_config(config, z_table=AtomicNumberTable(NUMBERS), cutoff=CUTOFF)
    loader = torch_geometric.dataloader.DataLoader([graph], batch_size=1, shuffle=False)
    return next(iter(loader)).to_dict()


def time_step(model: torch.nn.Module, graph: dict[str, torch.Tensor], compiled: bool) -> float:
    """Seconds of one evaluation of energy and forces at freshly jiggled positions.

    The compiled form wants ``training`` and positions that already ask for gradients, as mace's own calculator calls it.
    """
    positions = graph["positions"].detach()
    graph["positions"] = (positions + JIGGLE * torch.randn_like(positions)).requires_grad_(compiled)
    start = time.perf_counter()
    output = model(graph, training=compiled, compute_force=True, compute_stress=False)
    output["energy"].detach(), output["forces"].detach()
    return time.perf_counter() - start


def main() -> None:
    """Build, warm up, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--compile", action="store_true", help="mace's compiled mode, torch.compile of the prepared model")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    torch.manual_seed(0)
    graph = build_graph()
    model = torch.compile(prepare(build_model)(), fullgraph=True) if arguments.compile else build_model()
    for _ in range(arguments.warmup):
        time_step(model, graph, arguments.compile)
    seconds = [time_step(model, graph, arguments.compile) for _ in range(arguments.repeats)]
    report = {
        "peer": "mace-torch",
        "model": "mp0_medium shape, random weights",
        "system": "Cu64",
        "device": "cpu",
        "threads": arguments.threads,
        "dtype": arguments.dtype,
        "compiled": arguments.compile,
        "stress": False,
        "graph_timed": False,
        "atoms": int(graph["positions"].shape[0]),
        "edges": int(graph["edge_index"].shape[1]),
        "warmup": arguments.warmup,
        "repeats": arguments.repeats,
        "median_ms": round(1e3 * statistics.median(seconds), 2),
        "min_ms": round(1e3 * min(seconds), 2),
        "max_ms": round(1e3 * max(seconds), 2),
        "versions": {"mace": mace.__version__, "torch": torch.__version__, "e3nn": e3nn.__version__},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
