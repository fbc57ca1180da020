"""Judge the simulations of studies.sh: ``python recipes/xtb_hcno/analyse.py nvt|nve FOLDER -o results/NAME.json --machine TEXT``."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from mosso.data.readers import read_structures
from mosso.data.structure import Structure

BROKEN = 1.3  # Angstrom; an O-H bond of water vibrates within about 0.85 to 1.15
TARGET = 300.0  # K
SETTINGS = {  # as in studies.sh
    "nvt": {"ensemble": "Langevin, 300 K, 0.01/fs", "timestep_fs": 0.5, "precision": "fp32"},
    "nve": {"ensemble": "NVE, started at 300 K", "timestep_fs": 0.5, "precision": "fp64"},
}


def read_log(path: Path) -> dict[str, np.ndarray]:
    """Columns of a log table by name, without units."""
    names = [column.split("[")[0] for column in path.read_text().splitlines()[0].split(",")]
    values = np.genfromtxt(path, delimiter=",", skip_header=1)
    return dict(zip(names, values.T, strict=True))


def bond_lengths(frames: list[Structure]) -> np.ndarray:
    """(frames, O-H bonds) Angstrom; each oxygen keeps the two hydrogens nearest to it in the first frame."""
    first = frames[0]
    oxygens, hydrogens = np.flatnonzero(first.numbers == 8), np.flatnonzero(first.numbers == 1)
    inverse = np.linalg.inv(first.cell)

    def distances(frame: Structure, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        fractional = (frame.positions[b] - frame.positions[a]) @ inverse
        return np.linalg.norm((fractional - np.round(fractional)) @ frame.cell, axis=-1)

    pairs = distances(first, oxygens[:, None], hydrogens[None])
    nearest = np.argsort(pairs, axis=1)[:, :2]
    a, b = np.repeat(oxygens, 2), hydrogens[nearest.ravel()]
    assert len(set(b)) == len(hydrogens), "two oxygens share a hydrogen in the first frame"
    return np.array([distances(frame, a, b) for frame in frames])


def judge_nvt(folder: Path) -> dict[str, Any]:
    """Bonds and temperature of the NVT run; the first 2 ps of the temperature are equilibration."""
    log, frames = read_log(folder / "water64_nvt.log.csv"), read_structures(folder / "water64_nvt.extxyz")
    lengths, num_atoms = bond_lengths(frames), len(frames[0])
    settled = log["temperature"][log["time"] > 2.0]
    if len(settled) < 18:
        raise SystemExit(f"The run ends at {log['time'][-1]:g} ps: let studies.sh go on past the 2 ps of equilibration first.")
    blocks = np.array([block.mean() for block in np.array_split(settled, 18)])
    expected = TARGET * np.sqrt(2 / (3 * num_atoms))
    return {
        "time_ps": float(log["time"][-1]),
        "frames": len(frames),
        "bonds": int(lengths.shape[1]),
        "bonds_intact_in_every_frame": bool((lengths < BROKEN).all()),
        "longest_OH_A": round(float(lengths.max()), 4),
        "mean_OH_A": round(float(lengths.mean()), 4),
        "temperature_mean_K": round(float(settled.mean()), 2),
        "temperature_standard_error_K": round(float(blocks.std(ddof=1) / np.sqrt(len(blocks))), 2),
        "temperature_std_K": round(float(settled.std()), 2),
        "temperature_std_expected_K": round(float(expected), 2),
        "temperature_within_fluctuation": bool(abs(settled.mean() - TARGET) < expected),
    }


def judge_nve(folder: Path) -> dict[str, Any]:
    """Drift of the total energy by a linear fit over the whole NVE run."""
    log = read_log(folder / "water64_nve.log.csv")
    num_atoms = len(read_structures(folder / "water64_nve.extxyz", index="0")[0])
    per_atom = log["total_energy"] / num_atoms
    slope, intercept = np.polyfit(log["time"], per_atom, 1)
    return {
        "time_ps": float(log["time"][-1]),
        "drift_eV_per_atom_per_ps": float(slope),
        "rms_around_the_fit_eV_per_atom": float((per_atom - slope * log["time"] - intercept).std()),
        "temperature_mean_K": round(float(log["temperature"].mean()), 1),
        "below_1e-5": bool(abs(slope) < 1e-5),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=["nvt", "nve"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--machine", required=True, help="what it ran on, in words")
    options = parser.parse_args()
    result = (judge_nvt if options.study == "nvt" else judge_nve)(options.folder)
    head = {"study": f"water64_{options.study}", "model": "mosso-xtb-s", "machine": options.machine, **SETTINGS[options.study]}
    options.out.write_text(json.dumps(head | result, indent=2) + "\n")
    print(options.out.read_text())


if __name__ == "__main__":
    main()
