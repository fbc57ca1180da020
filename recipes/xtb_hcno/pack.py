"""Pack the finished tasks of label.py into one compressed file.

    python pack.py DIR -o xtb_hcno.npz

Frames are concatenated: atoms of frame ``i`` are ``offsets[i]:offsets[i + 1]``.  Split by ``task`` (one trajectory), or by ``system`` (same
molecules, any temperature), never by frame: neighbouring frames of a trajectory look alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from systems import GROUPS

MEGABYTE = 1_000_000


def read_shards(folder: Path) -> list[dict[str, np.ndarray]]:
    """Contents of all finished tasks with at least one frame, in task order; ``index`` is the task number."""
    shards = []
    for path in sorted(folder.glob("task_*.npz")):
        with np.load(path) as data:
            shard = {key: data[key] for key in data.files}
        shard["index"] = np.array(int(path.stem.split("_")[1]))
        if len(shard["energies"]):
            shards.append(shard)
    return shards


def pack(shards: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Flat arrays of the packed file; see README.md for their meaning."""
    sizes = np.concatenate([s["sizes"] for s in shards])
    frames = np.array([len(s["energies"]) for s in shards])
    labels = [str(s["label"]) for s in shards]
    systems = [label.split("@")[0] for label in labels]
    system_names, system_of_shard = np.unique(systems, return_inverse=True)
    task_names = np.full(max(int(s["index"]) for s in shards) + 1, "", dtype=f"U{max(map(len, labels))}")
    for shard, label in zip(shards, labels, strict=True):
        task_names[int(shard["index"])] = label
    return {
        "numbers": np.concatenate([s["numbers"] for s in shards]).astype(np.uint8),
        "positions": np.concatenate([s["positions"] for s in shards]).astype(np.float32),
        "forces": np.concatenate([s["forces"] for s in shards]).astype(np.float32),
        "energies": np.concatenate([s["energies"] for s in shards]).astype(np.float64),
        "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        "group": np.repeat([GROUPS.index(str(s["group"])) for s in shards], frames).astype(np.uint8),
        "group_names": np.array(GROUPS),
        "task": np.repeat([int(s["index"]) for s in shards], frames).astype(np.int32),
        "task_names": task_names,
        "system": np.repeat(system_of_shard, frames).astype(np.int32),
        "system_names": system_names,
    }


def summary(data: dict[str, np.ndarray]) -> str:
    """Table of frames, atoms and forces per group."""
    sizes = np.diff(data["offsets"])
    atom_group = np.repeat(data["group"], sizes)
    lines = ["| group | tasks | frames | atoms | mean atoms | rms force (eV/A) |", "|---|---|---|---|---|---|"]
    for k, name in [*enumerate(data["group_names"]), (None, "all")]:
        frame = np.ones(len(sizes), bool) if k is None else data["group"] == k
        force = data["forces"] if k is None else data["forces"][atom_group == k]
        if frame.any():
            rms = np.sqrt((force.astype(float) ** 2).mean())
            tasks = len(np.unique(data["task"][frame]))
            lines.append(f"| {name} | {tasks} | {frame.sum()} | {sizes[frame].sum()} | {sizes[frame].mean():.1f} | {rms:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the --out folder of label.py")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--max-mb", type=float, default=20.0, help="drop the last tasks of the queue until the file is smaller than this")
    args = parser.parse_args()
    shards = read_shards(args.folder)
    if not shards:
        raise SystemExit(f"no finished tasks in {args.folder}")
    dropped = sum(int(s["dropped"]) for s in shards)
    while True:
        data = pack(shards)
        partial = args.output.with_suffix(".partial")
        with partial.open("wb") as handle:
            np.savez_compressed(handle, **data)  # type: ignore[arg-type]
        size = partial.stat().st_size / MEGABYTE
        if size < args.max_mb:
            break
        # The queue is interleaved, so that its beginning is balanced too.
        keep = int(len(shards) * args.max_mb / size * 0.99)
        print(f"{size:.1f} MB is too large: keeping {keep} of {len(shards)} tasks")
        shards = shards[:keep]
    partial.replace(args.output)
    print(summary(data))
    print(f"{args.output}: {size:.2f} MB, {dropped} frames dropped when labelling (SCF failed or a force above the limit)")


if __name__ == "__main__":
    main()
