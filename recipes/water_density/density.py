"""The density of liquid water at constant pressure by mosso's dynamics and by ASE's, with one potential.

    python recipes/water_density/density.py all --minutes 9 --folder out/water_density -o results/h200_water_density.json

README.md says what is compared and why it must agree.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from time import time

ROOT = Path(__file__).resolve().parents[2]
SLACK = 30.0  # seconds of --minutes for starting processes, for the last steps and for the averages


def run_all(options: argparse.Namespace) -> None:
    """The equilibration, then every run at the same time as a process of its own, then the report on what has come back."""
    end = time() + 60.0 * options.minutes - SLACK
    for old in options.folder.glob("*.npz"):
        old.unlink()
    if launch(options, "equilibrate", "starts").wait() != 0:
        raise SystemExit(f"The equilibration failed: see {options.folder}/starts.log.")
    sizes = {"isotropic": options.replicas, "anisotropic": options.anisotropic_replicas}
    processes = {
        f"mosso-{coupling}": launch(options, "mosso", f"mosso-{coupling}", coupling=coupling, replicas=size, until=end)
        for coupling, size in sizes.items()
        if size
    }
    for number in range(options.ase_processes):
        barostat = "langevin" if number >= options.ase_processes - options.ase_langevin else "mtk"
        name = f"ase-{barostat}-{number}"
        processes[name] = launch(options, "ase", name, barostat=barostat, number=number, until=end)
    failed = [name for name, process in processes.items() if result(process, end + 0.75 * SLACK) != 0]
    analyse(options)
    if failed:
        raise SystemExit(f"Without {', '.join(failed)}: see the .log of each in {options.folder}.")


def launch(options: argparse.Namespace, verb: str, name: str, **changes: object) -> subprocess.Popen[bytes]:
    """This script again, in a process of one thread, with its output in ``name.log``."""
    values = {key: value for key, value in (vars(options) | changes).items() if key != "verb" and value is not None}
    command = [sys.executable, __file__, verb, *(f"--{key.replace('_', '-')}={value}" for key, value in values.items())]
    with open(options.folder / f"{name}.log", "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"})


def result(process: subprocess.Popen[bytes], end: float) -> int:
    """Exit status; what still runs at ``end`` is ended."""
    try:
        return process.wait(max(0.0, end - time()))
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def analyse(options: argparse.Namespace) -> None:
    from report import report

    report(options)


def equilibrate(options: argparse.Namespace) -> None:
    import sides

    sides.equilibrate(options)


def run_mosso(options: argparse.Namespace) -> None:
    import sides

    sides.run_mosso(options)


def run_ase(options: argparse.Namespace) -> None:
    import sides

    sides.run_ase(options)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=list(VERBS), help="one part of the study, or all of it")
    add = parser.add_argument
    add("--minutes", type=float, default=9.0, help="all: of everything; mosso and ase: of this run; it then stops and keeps what it has")
    add("--until", type=float, help="the same as a time of day, in seconds since 1970")
    add("--steps", type=int, default=10**9, help="at most, of a run")
    add("--folder", type=Path, default=Path("out/water_density"), help="starts, series and logs")
    add("-o", "--out", type=Path, default=Path("out/water_density/water_density.json"), help="averages, inputs and thinned series")
    add("--model", default="mosso-xtb-s")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--precision", default="fp32")
    add("--structure", type=Path, default=ROOT / "examples" / "water64.extxyz", help="where the equilibration starts")
    add("--temperature", type=float, default=300.0, help="K")
    add("--pressure", type=float, default=1.0, help="bar")
    add("--timestep", type=float, default=0.5, help="fs")
    add("--every", type=int, default=20, help="steps between samples")
    add("--equilibration", type=float, default=10.0, help="ps, of the starts")
    add("--cut", type=float, default=5.0, help="ps left out of every run, or a fifth of it where that is more")
    add("--replicas", type=int, default=16, help="of mosso, isotropic, in one batch")
    add("--anisotropic-replicas", type=int, default=8)
    add("--ase-processes", type=int, default=8)
    add("--ase-langevin", type=int, default=4, help="how many of those use the Langevin piston")
    add("--friction", type=float, default=0.005, help="1/fs, wherever there is Langevin noise on the atoms")
    add("--compressibility", type=float, default=1e-5, help="1/bar, that mosso's barostat takes for granted")
    add("--isotropic-time", type=float, default=300.0, help="fs, relaxation time of mosso's barostat")
    add(
        "--anisotropic-time",
        type=float,
        default=1000.0,
        help="fs, the same for the whole cell",
    )
    add("--ase-barostat", type=float, default=300.0, help="fs, relaxation time of ASE's barostats")
    add("--mtk-thermostat", type=float, default=50.0, help="fs, relaxation time of the Nose-Hoover chain")
    add("--seed", type=int, default=0)
    add("--coupling", default="isotropic", choices=["isotropic", "anisotropic"], help="mosso")
    add("--barostat", default="mtk", choices=["mtk", "langevin"], help="ase")
    add("--number", type=int, default=0, help="ase: which replica")
    return parser.parse_args(arguments)


VERBS = {"all": run_all, "equilibrate": equilibrate, "mosso": run_mosso, "ase": run_ase, "analyse": analyse}


def main() -> None:
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    VERBS[options.verb](options)


if __name__ == "__main__":
    main()
