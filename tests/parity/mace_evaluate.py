"""Evaluate a mace model on structures, one at a time or as one batch (needs mace and torch)."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from golden_structures import Structure
from mace import data
from mace.tools import AtomicNumberTable, torch_geometric

OUTPUTS = ("energy", "forces", "node_energy", "stress")


def heads_of(model: torch.nn.Module) -> list[str]:
    """Names of the heads; files from before heads existed have one."""
    return list(getattr(model, "heads", ["Default"]))


def make_batch(model: torch.nn.Module, structures: list[Structure], heads: list[str]) -> dict[str, torch.Tensor]:
    """Build mace's graph of the structures, each with its head, in torch's default dtype."""
    table = AtomicNumberTable([int(z) for z in model.atomic_numbers])
    graphs = []
    for structure, head in zip(structures, heads, strict=True):
        atoms = Atoms(
            numbers=structure.numbers,
            positions=structure.positions,
            cell=structure.cell,
            pbc=structure.pbc,
        )
        config = data.config_from_atoms(atoms, head_name=head)
        graphs.append(data.AtomicData.from_config(config, z_table=table, cutoff=float(model.r_max), heads=heads_of(model)))
    loader = torch_geometric.dataloader.DataLoader(graphs, batch_size=len(graphs), shuffle=False)
    return next(iter(loader)).to_dict()


def run(model: torch.nn.Module, structures: list[Structure], heads: list[str]) -> dict[str, np.ndarray]:
    """Evaluate all structures as one batch; adds ``node_feats``, ``volume`` and ``num_edges``.

    ``volume`` is the one mace divides the virial by: that of its own, completed cell.
    """
    batch = make_batch(model, structures, heads)
    output = model(batch, training=False, compute_force=True, compute_stress=True)
    result = {name: output[name].detach().numpy() for name in (*OUTPUTS, "node_feats")}
    cells = batch["cell"].view(-1, 3, 3).numpy()
    result["volume"] = np.abs(np.linalg.det(cells))
    graph_of_edge = batch["batch"][batch["edge_index"][1]].numpy()
    result["num_edges"] = np.bincount(graph_of_edge, minlength=len(structures))
    return result


def run_singly(model: torch.nn.Module, structures: list[Structure], head: str) -> dict[str, np.ndarray]:
    """Evaluate the structures one by one and join the results as a batch would be."""
    parts = [run(model, [structure], [head]) for structure in structures]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def hessian(model: torch.nn.Module, structure: Structure, head: str) -> np.ndarray:
    """Second derivatives of the energy (3N, 3N) in eV/A^2, by mace itself."""
    batch = make_batch(model, [structure], [head])
    output = model(batch, training=False, compute_force=True, compute_hessian=True)
    size = 3 * len(structure.numbers)
    return output["hessian"].detach().numpy().reshape(size, size)
