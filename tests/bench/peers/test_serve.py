"""The loop that everybody is timed by: atoms move in every call, what was asked for is what is called, errors are told apart."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosso.bench.peers import serve

HARMONIC = Path(__file__).parents[1] / "harmonic_adapter.py"


class Springs:
    """Energies are sums of squares; every call is written down."""

    packages = ("numpy", "a package that is not there")

    def __init__(self, device: str = "cpu", list_inside: bool = False) -> None:
        self.device, self.facts = device, {"parameters": 1, "list_inside": list_inside}
        self.calls: list[str] = []
        self.places: list[np.ndarray] = []

    def prepare(self, structures: serve.Structures, stress: bool) -> int:
        self.structures = structures
        return 3

    def place(self, positions: np.ndarray) -> None:
        self.calls.append("place")
        self.places.append(positions)

    def search(self) -> None:
        self.calls.append("search")

    def evaluate(self) -> np.ndarray:
        self.calls.append("evaluate")
        time.sleep(0.002)
        return np.bincount(self.structures.system, (self.places[-1] ** 2).sum(1))

    def answer(self, output: np.ndarray) -> dict[str, np.ndarray]:
        return {"energy": output.astype(np.float32), "forces": -2.0 * self.places[-1]}

    def release(self) -> None:
        self.calls.append("release")


@pytest.fixture
def inputs(tmp_path: Path) -> str:
    """Two systems, of two atoms and of one."""
    arrays = serve.Structures(
        numbers=np.array([1, 8, 29]),
        positions=np.arange(9.0).reshape(3, 3),
        system=np.array([0, 0, 1]),
        cells=np.stack([np.eye(3), 2.0 * np.eye(3)]),
        pbc=np.array([[True, True, True], [False, False, True]]),
    )
    np.savez(tmp_path / "inputs.npz", **arrays._asdict())
    return str(tmp_path / "inputs.npz")


def prepared(inputs: str, **arguments: Any) -> tuple[serve.Server, Any]:
    server = serve.Server(Springs)
    server.load(**arguments)
    assert server.prepare(inputs, stress=False) == {"atoms": 3, "edges": 3, "work": None}
    return server, server._adapter


def test_systems_of_a_batch_are_taken_apart(inputs: str) -> None:
    first, second = serve.Structures.read(inputs).atoms()
    assert first.get_chemical_symbols() == ["H", "O"] and second.get_chemical_symbols() == ["Cu"]
    np.testing.assert_array_equal(second.positions, [[6.0, 7.0, 8.0]])
    np.testing.assert_array_equal(second.cell[:], 2.0 * np.eye(3))
    assert first.pbc.all() and list(second.pbc) == [False, False, True]


def test_atoms_move_in_every_call_and_not_far(inputs: str) -> None:
    server, adapter = prepared(inputs)
    times = server.measure(calls=4, warm_up=2)["ms"]
    assert len(times) == 4 and all(2.0 <= ms < 1e3 for ms in times)
    assert adapter.calls == ["place", "evaluate"] * 6
    moves = np.stack(adapter.places) - np.arange(9.0).reshape(3, 3)
    assert np.abs(moves).max() < 6.0 * serve.STEP
    assert np.abs(moves).min(axis=0).max() > 0.0
    assert len(np.unique(moves[:, 0, 0])) == 6


@pytest.mark.parametrize(
    ("what", "calls"), [("evaluation", ["place", "evaluate"]), ("list", ["place", "search"]), ("both", ["place", "search", "evaluate"])]
)
def test_what_is_asked_for_is_timed(inputs: str, what: str, calls: list[str]) -> None:
    server, adapter = prepared(inputs)
    server.measure(calls=1, what=what)
    assert adapter.calls == calls


def test_a_list_inside_is_never_left_out(inputs: str) -> None:
    server, adapter = prepared(inputs, list_inside=True)
    server.measure(calls=1, what="both")
    assert adapter.calls == ["place", "evaluate"]
    for ask in (server.measure, server.memory):
        with pytest.raises(NotImplementedError, match="inside every evaluation"):
            ask(**({"calls": 1} if ask == server.measure else {}))


def test_answers_are_of_where_atoms_are(inputs: str, tmp_path: Path) -> None:
    server, _ = prepared(inputs)
    out, elsewhere = str(tmp_path / "out.npz"), str(tmp_path / "elsewhere.npy")
    np.save(elsewhere, np.ones((3, 3)))
    for positions, energies in ((None, [55.0, 149.0]), (elsewhere, [6.0, 3.0])):
        server.measure(calls=1)  # leaves the atoms somewhere else
        assert server.answer(out, positions=positions)["seconds"] >= 0.002
        with np.load(out) as arrays:
            assert arrays["energy"].dtype == np.float64
            np.testing.assert_array_equal(arrays["energy"], energies)


def test_memory_is_that_of_one_more_call(inputs: str) -> None:
    server, adapter = prepared(inputs)
    found = server.memory(with_list=True)
    assert found["memory_of"] == "process" and 0.01 < found["peak_GB"] < 100.0
    assert adapter.calls == ["place", "search", "evaluate"]


def test_what_was_released_must_be_given_again(inputs: str) -> None:
    server, adapter = prepared(inputs)
    server.release()
    assert adapter.calls == ["release"]
    with pytest.raises(ValueError, match="Nothing was prepared"):
        server.measure(calls=1)


def test_dynamics_are_those_of_the_package(inputs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = prepared(inputs)
    for do, what in ((lambda: dynamics(server), "no dynamics"), (lambda: server.write_weights("weights"), "no write_weights")):
        with pytest.raises(NotImplementedError, match=what):
            do()

    def own(self: Springs, structures: serve.Structures, timestep: float) -> Callable[[int, Callable[[int], None]], None]:
        def run(steps: int, done: Callable[[int], None]) -> None:
            time.sleep(0.2)  # what is recorded before the first step
            for step in range(4, steps, 4):
                time.sleep(4e-3)
                done(step)

        return run

    monkeypatch.setattr(Springs, "dynamics", own, raising=False)
    found = dynamics(server, steps=20, warm_up=5)
    assert 1.0 <= found["ms"][0] < 8.0  # it would be 11 with the start, and sleep comes late on a busy machine
    assert found["steps"] >= 20 and found["warm_up"] >= 8


def dynamics(server: serve.Server, engine: str = "own", steps: int = 5, warm_up: int = 2) -> dict[str, Any]:
    return server.dynamics(steps, seconds=5.0, engine=engine, timestep=0.5, warm_up=warm_up)


def test_dynamics_through_ase_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ase.calculators.lj import LennardJones

    arrays = {"numbers": [18, 18], "positions": [[0.0, 0, 0], [1.2, 0, 0]], "system": [0, 0]}
    np.savez(tmp_path / "pair.npz", cells=np.zeros((1, 3, 3)), pbc=np.zeros((1, 3), dtype=bool), **arrays)
    server = serve.Server(Springs)
    server.load()
    server.prepare(str(tmp_path / "pair.npz"), stress=False)
    evaluations: list[int] = []

    class Counted(LennardJones):
        def calculate(self, *arguments: Any) -> None:
            evaluations.append(1)
            super().calculate(*arguments)

    monkeypatch.setattr(Springs, "calculator", lambda self: Counted(), raising=False)
    found = dynamics(server, "ase")
    assert found["ms"][0] > 0.0 and found["steps"] == 5
    assert len(evaluations) == 1 + found["warm_up"] + 5  # a step is an evaluation, and one more where they start


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 MiB"), "memory"),
        (NotImplementedError("no stress"), "unsupported"),
        (RuntimeError("shapes differ"), "failure"),
        (KeyError("forces"), "failure"),
    ],
)
def test_errors_are_told_apart(error: Exception, kind: str) -> None:
    assert serve._kind(error) == kind
    assert serve._one_line(error).startswith(type(error).__name__)


def test_replies_are_lines_of_json_whatever_packages_print(inputs: str, tmp_path: Path) -> None:
    """The process itself, with an adapter that prints and a model that it does not have."""
    load = {"do": "load", "model": "spring", "backend": "", "precision": "fp64", "device": "cpu"}
    requests: list[dict[str, Any]] = [
        load | {"model": "broken"},
        load,
        {"do": "prepare", "inputs": inputs, "stress": True},
        {"do": "answer", "out": str(tmp_path / "out.npz")},
        {"do": "dynamics", "steps": 1, "seconds": 1.0, "engine": "own", "timestep": 0.5},
        {"do": "calculate"},
    ]
    text = "".join(json.dumps(request) + "\n" for request in requests)
    command = [sys.executable, serve.__file__, str(HARMONIC)]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=120)
    described, broken, loaded, ready, answered, steps, unknown = map(json.loads, done.stdout.splitlines())
    assert described["versions"]["numpy"] == np.__version__ and "a package that is not there" not in described["versions"]
    assert broken == {"error": "ValueError: no such model", "kind": "failure"}
    assert loaded["weights"] == "random" and loaded["seconds"] >= 0.0 and loaded["tf32"] is None
    assert ready["atoms"] == 3 and answered["seconds"] >= 0.0 and len(steps["ms"]) == 1
    assert unknown["kind"] == "failure"
    with np.load(tmp_path / "out.npz") as arrays:
        assert {name: arrays[name].shape for name in arrays} == {"energy": (2,), "forces": (3, 3), "stress": (2, 3, 3)}
    assert "packages print to stdout" in done.stderr
