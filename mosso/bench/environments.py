"""Interpreters for the packages that mosso is compared with: given, found in the cache, or built from pinned requirements."""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mosso.weights.store import cache_folder

REQUIREMENTS = Path(__file__).parent / "peers" / "requirements"
# What a package must find in its environment.
VARIABLES: dict[str, dict[str, str]] = {
    "mace_torch": {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},  # e3nn 0.4.4 reads its tables with a pickle
}
# Nothing of the caller's own packages may come before those of an environment that was built.
ALONE = {"PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
MARKER = "finished"
TAIL = 15  # lines of the installer's output that an error shows


@dataclass(frozen=True)
class Interpreter:
    """What runs an adapter.

    Attributes:
        python: the executable.
        environment: variables to set on top of the caller's.
    """

    python: Path
    environment: Mapping[str, str] = field(default_factory=dict)


def find_or_build(
    package: str,
    *,
    given: Path | None = None,
    wheels: Path | None = None,
    build: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Interpreter:
    """The interpreter that has ``package``, such as ``mace-torch``.

    Args:
        package: adapter and requirements are files of this name, with ``_`` for ``-``.
        given: an interpreter, or the folder of an environment, that is taken as it is.
        wheels: a folder of wheels to install from without a network; what it lacks of the requirements, torch first of all, is
            taken from the interpreter that runs this.
        build: False to take only what is there.
        say: told what takes long.

    Raises:
        ValueError: there is none, or building it failed.
    """
    name = package.replace("-", "_")
    variables = VARIABLES.get(name, {})
    if given is not None:
        return Interpreter(_executable(package, given), variables)
    pins = _pins(package, name)
    plan = _Plan(pins, torch=_torch(pins)) if wheels is None else _Plan(*_within(package, pins, wheels))
    folder = cache_folder() / "peers" / f"{name}-{plan.key}"
    interpreter = Interpreter(folder / "bin" / "python", variables | ALONE)
    if _is_finished(folder):
        return interpreter
    if not build:
        raise ValueError(f"There is no environment for {package} yet: let the benchmark build one, or give an interpreter that has it.")
    with _locked(folder):
        if not _is_finished(folder):  # another process may have built it meanwhile
            say(f"building the environment of {package} in {folder}")
            _build(package, folder, plan)
    return interpreter


@dataclass(frozen=True)
class _Plan:
    """What to install.

    Attributes:
        requirements: pinned lines.
        wheels: the folder they come from; None for the package index.
        site: folders of packages to see behind the installed ones.
        torch: with its own needs, if any; the requirements name all else.
    """

    requirements: Sequence[str]
    wheels: Path | None = None
    site: Sequence[str] = ()
    torch: str | None = None

    @property
    def key(self) -> str:
        """Changes when anything does that makes another environment."""
        python = "{}.{}".format(*sys.version_info)
        parts = [python, sys.base_prefix, *self.requirements, *self.site, str(self.wheels), str(self.torch)]
        return f"py{python}-{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:12]}"


def _executable(package: str, given: Path) -> Path:
    """Not resolved: the link of a virtual environment is what makes it one."""
    path = Path(os.path.abspath(given / "bin" / "python" if given.is_dir() else given))
    if not os.access(path, os.X_OK) or path.is_dir():
        raise ValueError(f"The interpreter for {package}, {given}, cannot be run: give the path of a python that has {package}.")
    return path


def _pins(package: str, name: str) -> list[str]:
    """Requirements of a package; where torch is built for CUDA, those of ``NAME.cu13.txt`` or whichever release it is, too."""
    files = [REQUIREMENTS / f"{name}.txt"]
    if not files[0].is_file():
        known = ", ".join(sorted(p.stem.replace("_", "-") for p in REQUIREMENTS.glob("*.txt") if "." not in p.stem))
        raise ValueError(f"Nothing is known of how to install {package}: give an interpreter that has it, or choose of {known}.")
    import torch

    if torch.version.cuda is not None:
        files.append(REQUIREMENTS / f"{name}.cu{torch.version.cuda.split('.')[0]}.txt")
    lines = [line.split("#")[0].strip() for file in files if file.is_file() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def _name_and_version(requirement: str) -> tuple[str, str]:
    """Of ``Name[extra]==version; marker``, the name in its normal form."""
    match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", requirement)
    assert match, f"{requirement} is not pinned"
    return _normal(match[1]), match[2]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _torch(pins: Sequence[str]) -> str:
    """The release of torch that the requirements say, else that which runs this, so that a build for the CPU stays one."""
    named = (pin for pin in pins if _name_and_version(pin)[0] == "torch")
    return next(named, f"torch=={importlib.metadata.version('torch').split('+')[0]}")


def _within(package: str, pins: Sequence[str], wheels: Path) -> tuple[list[str], Path, list[str]]:
    """The pins that a folder has wheels of, the folder, and where this interpreter keeps the others."""
    if not wheels.is_dir():
        raise ValueError(f"{wheels} is no folder: give one that holds the wheels of {package}.")
    held = {_normal(wheel.name): wheel for wheel in importlib.metadata.distributions(path=[str(path) for path in wheels.glob("*.whl")])}
    pinned = dict(_name_and_version(pin) for pin in pins)
    found = {name: wheel for name, wheel in held.items() if pinned.get(name) == wheel.version}
    if lacking := sorted(_lacking(pinned, found)):
        wanted = [f"{name}=={pinned[name]}" for name in lacking]
        source = REQUIREMENTS / f"{package.replace('-', '_')}.txt"
        raise ValueError(
            f"{wheels} lacks {', '.join(wanted)} for {package}: fill it with `pip wheel --no-deps -w {wheels} -r {source}`, by the same "
            "release of Python, where there is a network."
        )
    site = [folder for folder in sys.path if folder and next(Path(folder).glob("*.dist-info"), None)]
    return [pin for pin in pins if _name_and_version(pin)[0] in found], Path(os.path.abspath(wheels)), site


def _lacking(pinned: Mapping[str, str], found: Mapping[str, importlib.metadata.Distribution]) -> set[str]:
    """What a package, the first that is pinned, and its needs call for and neither the wheels nor this interpreter have. What is needed
    under a condition only is left to show itself; what is called for and not pinned is not needed."""
    here = {_normal(distribution.name) for distribution in importlib.metadata.distributions()}
    first = next(iter(pinned))
    lacking, seen, queue = set[str](), {first}, [first]
    for name in queue:
        if name in found:
            needs = {_normal(re.split(r"[^A-Za-z0-9._-]", need)[0]) for need in found[name].requires or () if ";" not in need}
            queue += (needs & pinned.keys()) - seen
            seen |= needs
        elif name == first or name not in here:
            lacking.add(name)
    return lacking


def _is_finished(folder: Path) -> bool:
    """The marker is written last; and the interpreter it was made with may have gone."""
    return (folder / MARKER).is_file() and (folder / "bin" / "python").exists()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that holds it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(package: str, folder: Path, plan: _Plan) -> None:
    """Environments cannot be moved, so it is made in its place, from nothing, and marked at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _run(package, [sys.executable, "-m", "venv", "--without-pip", str(folder)])
        for arguments in _arguments(folder, plan):
            _run(package, [*_installer(package, folder / "bin" / "python"), *arguments])
        if plan.site:
            (site,) = folder.glob("lib/python*/site-packages")
            (site / "behind.pth").write_text("".join(f"{path}\n" for path in plan.site), encoding="utf-8")
        (folder / MARKER).write_text("\n".join([*plan.requirements, ""]), encoding="utf-8")
    except BaseException:  # an interrupt as well
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _installer(package: str, python: Path) -> list[str]:
    """uv where it is there, else the pip of this interpreter, which installs for others too."""
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", str(python)]
    if importlib.util.find_spec("pip") is None:
        raise ValueError(
            f"Neither uv nor pip is here to install {package}: install one of them, or give an interpreter that has {package}."
        )
    return [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "--no-input"]


def _arguments(folder: Path, plan: _Plan) -> Iterator[list[str]]:
    """Of one installation after the other. The pins hold all that a package needs, whatever it says itself: fairchem-core 1.10, say,
    asks for torch 2.4, and runs with any later one."""
    if plan.wheels is not None:
        yield ["--no-index", "--no-deps", "--find-links", str(plan.wheels), *plan.requirements]
        return
    wanted = folder / "requirements.txt"
    wanted.write_text("\n".join([*plan.requirements, ""]), encoding="utf-8")
    yield ["--no-deps", "-r", str(wanted)]
    if plan.torch is not None:
        yield [plan.torch]


def _run(package: str, command: Sequence[str]) -> None:
    # the new environment is seen alone: what PYTHONPATH shows must not count as installed in it
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False, env=environment
    )
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-TAIL:])
        raise ValueError(
            f"The environment of {package} could not be built: mend what stands below, or give an interpreter that has {package}.\n{tail}"
        )
