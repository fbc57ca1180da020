"""Interpreters of other packages: given, found, and built from wheels without a network."""

import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from mosso.bench import environments
from mosso.bench.environments import find_or_build

PEERS = Path(environments.__file__).parent / "peers"


@pytest.fixture(autouse=True)
def requirements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and pins of the test's own: a package, what it needs, and what it can do without."""
    monkeypatch.setenv("MOSSO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "requirements"
    folder.mkdir()
    (folder / "tiny_peer.txt").write_text("# The package first.\ntiny-peer==1.0\nTiny.Need[fast]==2.1  # by tiny-peer\nspare==3.0\n")
    monkeypatch.setattr(environments, "REQUIREMENTS", folder)
    return folder


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, "tiny_peer", "1.0", "numpy>=1.0", "Tiny-Need[fast] >=2", "absent; extra == 'all'", "not-pinned ~=2.4")
    write_wheel(folder, "tiny_need", "2.1")
    return folder


def write_wheel(folder: Path, name: str, version: str, *needs: str, tag: str = "py3-none-any") -> None:
    """A wheel of one module, whose VERSION says which it is."""
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {need}" for need in needs)]
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": "\n".join([*metadata, ""]),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as wheel:
        for path, text in (files | {f"{info}/RECORD": record}).items():
            wheel.writestr(path, text)


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Folders are made, but nothing is installed; the packages that this was done for."""
    built: list[str] = []

    def run(package: str, command: list[str]) -> None:
        if "venv" in command:
            built.append(package)
            for part in ("bin", "lib/python3/site-packages"):
                Path(command[-1], part).mkdir(parents=True)
            Path(command[-1], "bin", "python").symlink_to(sys.executable)

    monkeypatch.setattr(environments, "_run", run)
    return built


def said_by(found: environments.Interpreter, code: str) -> str:
    done = subprocess.run([found.python, "-c", code], env=dict(found.environment), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_environment_is_built_from_wheels_once(wheels: Path, requirements: Path) -> None:
    """Without a network: its own packages first, behind them those of this interpreter."""
    with (requirements / "tiny_peer.txt").open("a") as file:
        file.write("pytest==0.1\n")
    write_wheel(wheels, "pytest", "0.1")
    told: list[str] = []
    built = find_or_build("tiny-peer", wheels=wheels, say=told.append)
    code = "import tiny_peer as p, tiny_need as n, pytest as t; print(p.VERSION, n.VERSION, t.VERSION)"
    assert said_by(built, code) == "1.0 2.1 0.1"
    assert said_by(built, "import sys; print(sys.prefix)") == str(built.python.parents[1])
    torch = said_by(built, "import importlib.util as u; print(u.find_spec('torch').origin, u.find_spec('spare'))")
    assert torch == f"{sys.modules['torch'].__file__} None"
    assert len(told) == 1 and "tiny-peer" in told[0]
    assert find_or_build("tiny-peer", wheels=wheels, build=False) == built
    assert find_or_build("tiny-peer", wheels=wheels, say=told.append) == built
    assert len(told) == 1


def test_a_half_built_environment_is_built_anew(wheels: Path, instant: list[str]) -> None:
    built = find_or_build("tiny-peer", wheels=wheels)
    folder = built.python.parents[1]
    (folder / environments.MARKER).unlink()
    (folder / "left over").touch()
    with pytest.raises(ValueError, match="There is no environment for tiny-peer yet"):
        find_or_build("tiny-peer", wheels=wheels, build=False)
    assert find_or_build("tiny-peer", wheels=wheels) == built
    assert instant == ["tiny-peer"] * 2
    assert (folder / environments.MARKER).is_file() and not (folder / "left over").exists()


def test_a_failed_build_leaves_nothing_and_shows_the_installer(wheels: Path, tmp_path: Path) -> None:
    (wheels / "tiny_need-2.1-py3-none-any.whl").unlink()
    write_wheel(wheels, "tiny_need", "2.1", tag="cp27-none-any")  # for a Python that nobody has
    with pytest.raises(ValueError, match=r"(?s)could not be built: mend what stands below.*\n.*[Tt]iny.[Nn]eed"):
        find_or_build("tiny-peer", wheels=wheels)
    assert [path.suffix for path in (tmp_path / "cache" / "peers").iterdir()] == [".lock"]


def test_wheels_that_are_not_there_are_named(wheels: Path, tmp_path: Path) -> None:
    (wheels / "tiny_need-2.1-py3-none-any.whl").unlink()
    write_wheel(wheels, "tiny_need", "2.0")  # not the one that is pinned
    lacks = r"wheels lacks {} for tiny-peer: fill it with `pip wheel --no-deps -w \S*/wheels -r \S*/tiny_peer\.txt`"
    with pytest.raises(ValueError, match=lacks.format("tiny-need==2.1")):
        find_or_build("tiny-peer", wheels=wheels)
    (wheels / "tiny_peer-1.0-py3-none-any.whl").write_bytes(b"a transfer that broke off")
    with pytest.raises(ValueError, match=lacks.format("tiny-peer==1.0")):
        find_or_build("tiny-peer", wheels=wheels)
    with pytest.raises(ValueError, match="nowhere is no folder: give one that holds the wheels of tiny-peer"):
        find_or_build("tiny-peer", wheels=tmp_path / "nowhere")


def test_one_process_builds_while_others_wait(wheels: Path, instant: list[str]) -> None:
    folder = find_or_build("tiny-peer", wheels=wheels).python.parents[1]
    (folder / environments.MARKER).unlink()
    found: list[environments.Interpreter] = []
    other = threading.Thread(target=lambda: found.append(find_or_build("tiny-peer", wheels=wheels)))
    with environments._locked(folder):
        other.start()
        other.join(0.2)
        assert other.is_alive() and not found
        (folder / environments.MARKER).touch()
    other.join(10.0)
    assert instant == ["tiny-peer"] and [one.python for one in found] == [folder / "bin" / "python"]


def test_the_key_names_what_an_environment_is_made_of(tmp_path: Path) -> None:
    plan = environments._Plan
    plans = [
        plan(["a==1"]),
        plan(["a==2"]),
        plan(["a==1", "b==1"]),
        plan(["a==1"], torch="torch==2.13.0"),
        plan(["a==1"], torch="torch==2.11.0"),
        plan(["a==1"], wheels=tmp_path),
        plan(["a==1"], wheels=tmp_path, site=["/elsewhere"]),
    ]
    assert len({one.key for one in plans}) == len(plans)
    assert plan(["a==1"]).key == plans[0].key
    assert plans[0].key.startswith(f"py{sys.version_info.major}.{sys.version_info.minor}-")


def test_a_given_interpreter_is_taken_as_it_is(tmp_path: Path) -> None:
    here = Path(sys.executable)
    assert find_or_build("tiny-peer", given=here) == environments.Interpreter(here)
    assert find_or_build("mace-torch", given=here).environment["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(here)
    assert find_or_build("tiny-peer", given=tmp_path).python == tmp_path / "bin" / "python"  # the link is the environment
    (tmp_path / "text").touch()
    for given in (tmp_path / "text", tmp_path / "nowhere", tmp_path / "requirements"):
        with pytest.raises(ValueError, match=f"The interpreter for tiny-peer, {given}, cannot be run: give the path of a python"):
            find_or_build("tiny-peer", given=given)


def test_what_nobody_can_install_is_told(monkeypatch: pytest.MonkeyPatch, wheels: Path) -> None:
    with pytest.raises(ValueError, match="how to install lammps: give an interpreter that has it, or choose of tiny-peer"):
        find_or_build("lammps")
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="Neither uv nor pip is here to install tiny-peer"):
        find_or_build("tiny-peer", wheels=wheels)


def test_pins_are_installed_as_they_are_and_torch_with_its_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages that ask for another release of torch than their users have run with it all the same."""
    commands: list[list[str]] = []

    def run(package: str, command: list[str]) -> None:
        commands.append(command)
        Path(commands[0][-1]).mkdir(parents=True, exist_ok=True)  # where the environment is to be

    monkeypatch.setattr(environments, "_run", run)
    find_or_build("tiny-peer")
    venv, pins, torch = commands
    assert "venv" in venv
    assert "--no-deps" in pins and Path(pins[-1]).read_text().split() == ["tiny-peer==1.0", "Tiny.Need[fast]==2.1", "spare==3.0"]
    assert "--no-deps" not in torch and torch[-1] == environments._torch([])


def test_torch_stays_that_of_this_interpreter_unless_pinned() -> None:
    import torch

    release = torch.__version__.split("+")[0]
    assert environments._torch(["a==1"]) == f"torch=={release}"
    assert environments._torch(["a==1", "torch==2.11.0"]) == "torch==2.11.0"


@pytest.mark.parametrize("path", sorted((PEERS / "requirements").glob("*.txt")), ids=lambda path: path.name)
def test_every_requirement_is_pinned_once(path: Path) -> None:
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    names = [environments._name_and_version(line)[0] for line in lines if line]
    assert names and len(set(names)) == len(names)
    assert (PEERS / f"{path.stem.split('.')[0]}.py").is_file()
