"""Make the golden files of the seeded cases with mace-torch (see README.md for the environment).

python make_mace_goldens.py                     # all cases
python make_mace_goldens.py mp0_medium small_corr1
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import e3nn
import mace
import mace.modules
import mace_evaluate
import numpy as np
import torch
from e3nn import o3
from golden_structures import Structure, pack, structures_for
from mace_cases import CASES, Case
from seeded_weights import ATOMIC_ENERGIES, SHIFT, fill, fingerprint, is_filled

GOLDENS = Path(__file__).parent / "goldens"
U_MATRICES = "u_matrices.npz"
FULL_SIZE_FEATURES = "crystal_small"  # the only structure whose node_feats a full-size case keeps
NOT_ARCHITECTURE = ("name", "species", "small", "hessian", "save_model", "seed", "message_gain")
NOTES = {
    "units": "eV, Angstrom; stress in eV/A^3, tension positive",
    "node_energy": "includes the atomic energy E0 of the head; sums to the energy",
    "stress": "dE/dstrain divided by `volume`, for every structure, periodic or not",
    "volume": (
        "that of mace's completed cell: every non-periodic lattice vector is replaced by "
        "(max|position component| + 1) * 5 * r_max along its Cartesian axis (x for the first vector, "
        "y for the second, z for the third), periodic or not in the other directions. "
        "Hence the stress of slabs, wires and molecules is not the user's cell's: "
        "compare stress * volume, or only structures with pbc (True, True, True)"
    ),
    "zbl": (
        "0.5 * sum over both directions, added to the receiver. ScaleShiftMACE: inside scale and shift. "
        "MACE: added unscaled, and part of node_energy"
    ),
}


def build(case: Case) -> torch.nn.Module:
    """Build the model in torch's default dtype and fill its weights."""
    num_heads = len(case.heads)
    energies_shape = (num_heads, len(case.numbers)) if case.per_head else (len(case.numbers),)
    settings: dict[str, Any] = {
        "r_max": case.r_max,
        "num_bessel": case.num_bessel,
        "num_polynomial_cutoff": case.num_polynomial_cutoff,
        "max_ell": case.max_ell,
        "interaction_cls": mace.modules.interaction_classes[case.interaction],
        "interaction_cls_first": mace.modules.interaction_classes[case.interaction_first],
        "num_interactions": case.num_interactions,
        "num_elements": len(case.numbers),
        "hidden_irreps": o3.Irreps(case.hidden_irreps),
        "MLP_irreps": o3.Irreps(case.MLP_irreps),
        "gate": torch.nn.functional.silu,
        "atomic_energies": np.zeros(energies_shape),
        "avg_num_neighbors": case.avg_num_neighbors,
        "atomic_numbers": list(case.numbers),
        "correlation": case.correlation,
        "radial_type": "bessel",
        "radial_MLP": list(case.radial_MLP),
        "distance_transform": case.distance_transform,
        "pair_repulsion": case.pair_repulsion,
        "heads": list(case.heads),
    }
    if case.model_class == "ScaleShiftMACE":
        settings["atomic_inter_scale"] = [1.0] * num_heads if case.per_head else 1.0
        settings["atomic_inter_shift"] = [0.0] * num_heads if case.per_head else 0.0
    model = getattr(mace.modules, case.model_class)(**settings)
    fill_weights(model, case)
    return model


def is_seeded(name: str, case: Case) -> bool:
    """Whether this tensor of this case is drawn (a shift kept at zero is not)."""
    return is_filled(name) and not (case.zero_shift and name == SHIFT)


def fill_weights(model: torch.nn.Module, case: Case) -> None:
    """Overwrite the drawn tensors in place; every trainable weight must be among them."""
    trainable = {name for name, value in model.named_parameters() if value.numel() > 0}
    left_out = sorted(name for name in trainable if not is_filled(name))
    assert not left_out, f"trainable weights without a rule: {left_out}"
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if is_seeded(name, case):
                drawn = fill(name, tuple(value.shape), case.seed, case.message_gain)
                value.copy_(torch.from_numpy(drawn))
            assert not (name.endswith("_zeroed") and bool(value)), f"{name} switches weights off"


def u_matrix_keys(model: torch.nn.Module, max_ell: int) -> dict[str, str]:
    """Map the state-dict name of every U matrix to its key in u_matrices.npz."""
    keys = {}
    for i, product in enumerate(model.products):
        for j, (_, irrep) in enumerate(product.symmetric_contractions.irreps_out):
            prefix = f"products.{i}.symmetric_contractions.contractions.{j}.U_matrix_"
            for name in model.state_dict():
                if name.startswith(prefix):
                    keys[name] = f"L{irrep.l}_ell{max_ell}_nu{name.removeprefix(prefix)}"
    return keys


def describe_state(model: torch.nn.Module, case: Case) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """List every tensor and where a reader gets it; return also stored values and U matrices."""
    keys = u_matrix_keys(model, case.max_ell)
    entries, stored, u_matrices = [], {}, {}
    for name, tensor in model.state_dict().items():
        value = tensor.numpy()
        entry: dict[str, Any] = {"name": name, "shape": list(value.shape), "dtype": str(value.dtype)}
        if is_seeded(name, case):
            entry |= {"source": "seeded", "first_and_rms": fingerprint(value)}
        elif name in keys:
            entry |= {"source": "u_matrices", "key": keys[name]}
            u_matrices[keys[name]] = value
        elif value.size == 0:
            entry |= {"source": "empty"}
        elif name.endswith("output_mask"):
            entry |= {"source": "output_mask"}
        else:
            entry |= {"source": "stored"}
            stored[f"state/{name}"] = value
        entries.append(entry)
    return entries, stored, u_matrices


def describe_architecture(model: torch.nn.Module, case: Case) -> dict[str, Any]:
    """All hyperparameters as plain data, with the values a reader cannot derive."""
    architecture = dataclasses.asdict(case)
    for not_architecture in NOT_ARCHITECTURE:
        del architecture[not_architecture]
    radial = model.interactions[0].conv_tp_weights
    architecture |= {
        "num_elements": len(case.numbers),
        "radial_type": "bessel",
        "gate": "silu",
        "apply_cutoff": True,
        "radial_activation_cst": float(radial.layer0.act.cst),
        "atomic_energies": model.state_dict()[ATOMIC_ENERGIES].tolist(),
        "bessel_weights": model.radial_embedding.bessel_fn.bessel_weights.tolist(),
    }
    readout = model.readouts[-1]
    if hasattr(readout, "non_linearity"):
        architecture["readout_activation_cst"] = float(readout.non_linearity.acts[0].cst)
    if hasattr(model, "scale_shift"):
        architecture["atomic_inter_scale"] = model.scale_shift.scale.tolist()
        architecture["atomic_inter_shift"] = model.scale_shift.shift.tolist()
    return architecture


def evaluate(model: torch.nn.Module, case: Case, structures: list[Structure]) -> dict[str, np.ndarray]:
    """All golden arrays of a case: single, batched, and batched with a head per structure."""
    single = [mace_evaluate.run_singly(model, structures, head) for head in case.heads]
    batched = [mace_evaluate.run(model, structures, [head] * len(structures)) for head in case.heads]
    arrays = {name: np.stack([result[name] for result in single]) for name in mace_evaluate.OUTPUTS}
    for name in mace_evaluate.OUTPUTS:
        arrays[f"batch_{name}"] = np.stack([result[name] for result in batched])
    arrays |= {name: single[0][name] for name in ("volume", "num_edges")}
    features = single[0]["node_feats"]
    if not case.small:
        position = [s.name for s in structures].index(FULL_SIZE_FEATURES)
        assert position == 0
        features = features[: len(structures[0].numbers)]
    arrays["node_feats"] = features
    if len(case.heads) > 1:
        index = np.arange(len(structures)) % len(case.heads)
        mixed = mace_evaluate.run(model, structures, [case.heads[i] for i in index])
        arrays["mixed_head_index"] = index
        arrays |= {f"mixed_{name}": mixed[name] for name in mace_evaluate.OUTPUTS}
    return arrays


def evaluate_float32(case: Case, structures: list[Structure]) -> dict[str, np.ndarray]:
    """Forces that mace makes itself in float32, first head, weights drawn in float64 and rounded: what rounding costs the original."""
    torch.set_default_dtype(torch.float32)
    try:
        model = build(case)
        forces = [mace_evaluate.run(model, [structure], [case.heads[0]])["forces"] for structure in structures]
    finally:
        torch.set_default_dtype(torch.float64)
    return {"float32_forces": np.concatenate(forces)}


def merge_u_matrices(path: Path, u_matrices: dict[str, np.ndarray]) -> None:
    """Add U matrices to the shared sparse file; one already there must be equal bit for bit."""
    arrays = dict(np.load(path)) if path.exists() else {}
    for key, value in u_matrices.items():
        index = np.flatnonzero(value).astype(np.int32)
        sparse = {"shape": np.array(value.shape), "index": index, "value": value.ravel()[index]}
        for part, array in sparse.items():
            stored = arrays.setdefault(f"{key}/{part}", array)
            assert np.array_equal(stored, array), f"{key} differs between cases"
    np.savez_compressed(path, **arrays)


def versions() -> dict[str, str]:
    """Versions of everything that can move a golden value."""
    return {
        "mace": mace.__version__,
        "torch": torch.__version__,
        "e3nn": e3nn.__version__,
        "numpy": np.__version__,
    }


def make(case: Case, folder: Path) -> None:
    """Build, evaluate and write one case."""
    start = time.perf_counter()
    structures = structures_for(case.species, case.seed, case.small)
    model = build(case)
    entries, stored, u_matrices = describe_state(model, case)
    arrays = pack(structures) | evaluate(model, case, structures) | stored
    if case.hessian:
        molecule = next(s for s in structures if s.name == "molecule")
        arrays["hessian_molecule"] = mace_evaluate.hessian(model, molecule, case.heads[0])
    arrays |= evaluate_float32(case, structures)
    if case.save_model:
        torch.save(model, folder / f"{case.name}.model")
        state = {name: value.numpy() for name, value in model.state_dict().items()}
        np.savez_compressed(folder / f"{case.name}_state.npz", **state)
    np.savez_compressed(folder / f"{case.name}.npz", **arrays)
    description = {
        "case": case.name,
        "seed": case.seed,
        "message_gain": case.message_gain,
        "versions": versions(),
        "architecture": describe_architecture(model, case),
        "structures": [s.name for s in structures],
        "notes": NOTES,
        "state_dict": entries,
    }
    (folder / f"{case.name}.json").write_text(json.dumps(description, indent=1) + "\n")
    merge_u_matrices(folder / U_MATRICES, u_matrices)
    single, batch = arrays["forces"], arrays["batch_forces"]
    print(
        f"{case.name}: E {np.round(arrays['energy'][0], 2).tolist()} eV, "
        f"max |F| {np.abs(single).max():.2f} eV/A, "
        f"batch - single {np.abs(single - batch).max():.1e}, "
        f"{time.perf_counter() - start:.1f} s",
        flush=True,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help=f"names among: {', '.join(CASES)} (default: all)")
    parser.add_argument("--folder", type=Path, default=GOLDENS, help="where to write (default: goldens/)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.cases) - set(CASES))
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    torch.set_default_dtype(torch.float64)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.cases or CASES:
        make(CASES[name], arguments.folder)


if __name__ == "__main__":
    main()
