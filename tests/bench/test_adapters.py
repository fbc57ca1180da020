"""What every adapter must do, tried in the environment of its package: answers that belong together, alone and in batches.

    pytest -m slow tests/bench/test_adapters.py [-k nequip]

A package whose environment has not been built is skipped. ``MOSSO_TEST_PEERS=orb-models=/path/to/python,...`` names others.
"""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mosso
from mosso.bench import cases, environments
from mosso.data.structure import Structure

pytestmark = pytest.mark.slow
PEERS_FOLDER = Path(environments.__file__).parent / "peers"
TIMEOUT = 900.0  # seconds of one request; compiled modes take their time
Answer = dict[str, np.ndarray]


@dataclass(frozen=True)
class Peer:
    """What is tried of an adapter.

    Attributes:
        model: a small one of its names; it must know hydrogen, carbon, oxygen and copper.
        backends: the first is the plainest, and the others must agree with it.
        conservative: forces and stress are derivatives of the energy.
        truth: its most exact precision.
        step: Angstrom, of finite differences. slope: how far these may be off, relative. noise: rounding of ``truth``, relative.
        lower: other precision -> how far it may be from the truth, relative (root mean squares).
        options: more arguments of ``Adapter``.
        package: what runs it, where its name here is another.
    """

    model: str
    backends: tuple[str, ...]
    conservative: bool = True
    truth: str = "fp64"
    step: float = 1e-4
    slope: float = 1e-5
    noise: float = 1e-9
    lower: dict[str, float] = field(default_factory=lambda: {"fp32": 1e-4})
    options: dict[str, Any] = field(default_factory=dict)
    package: str | None = None


PEERS = {
    "allegro": Peer("allegro-s", ("eager", "aoti"), package="nequip"),
    "mace-torch": Peer("mace-mp0-small", ("e3nn", "e3nn-compiled", "cueq")),
    "nequip": Peer("nequip-oam-s", ("eager", "aoti")),
    "orb-models": Peer("orb-v3-conservative-inf", ("eager", "compiled")),
    "sevenn": Peer("7net-0", ("e3nn", "cueq")),
    "fairchem-core": Peer("esen-sm", ("default", "fast")),
    "upet": Peer("pet-mad-s", ("default",)),
    "equiformer-v3": Peer("equiformer-v3", ("default",), truth="fp32", step=3e-3, slope=1e-2, noise=1e-4, lower={}),
}


class Worker:
    """serve.py with one adapter, in the interpreter of its package."""

    def __init__(self, name: str, folder: Path) -> None:
        self.peer, self.folder, self.facts = PEERS[name], folder, dict[str, Any]()
        self.package = package = self.peer.package or name
        given = dict(entry.split("=", 1) for entry in os.environ.get("MOSSO_TEST_PEERS", "").split(",") if entry).get(package)
        try:
            found = environments.find_or_build(package, given=Path(given) if given else None, build=False)
        except ValueError as error:
            pytest.skip(str(error))
        adapter = PEERS_FOLDER / f"{package.replace('-', '_')}.py"
        self.process = subprocess.Popen(
            [found.python, "-W", "ignore", PEERS_FOLDER / "serve.py", adapter],
            env=os.environ | found.environment | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions = self._read()["versions"]

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The reply to a request; a failure fails the test, and what the package cannot do skips it."""
        print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
        return self._read()

    def load(self, backend: str, precision: str) -> None:
        """A model; a backend that cannot run here skips the test."""
        device = {"device": "cpu"}
        self.facts = self.ask("load", model=self.peer.model, backend=backend, precision=precision, **device, **self.peer.options)

    def answer(self, structures: list[Structure], stress: bool = True, **more: Any) -> Answer:
        """Of structures that are prepared for it."""
        self.prepare(structures, stress)
        return self.answer_at(**more)

    def prepare(self, structures: list[Structure], stress: bool = True) -> None:
        inputs = self.folder / "inputs.npz"
        np.savez(
            inputs,
            numbers=np.concatenate([s.numbers for s in structures]),
            positions=np.concatenate([s.positions for s in structures]),
            system=np.repeat(np.arange(len(structures)), [len(s.numbers) for s in structures]),
            cells=np.stack([s.cell for s in structures]),
            pbc=np.stack([s.pbc for s in structures]),
        )
        reply = self.ask("prepare", inputs=str(inputs), stress=stress)
        assert reply["edges"] is None or reply["edges"] > 0

    def answer_at(self, positions: np.ndarray | None = None, with_list: bool = False) -> Answer:
        """Of the prepared atoms, elsewhere if so wanted."""
        out, moved = self.folder / "answer.npz", None
        if positions is not None:
            moved = str(self.folder / "moved.npy")
            np.save(moved, positions)
        with_list = with_list or self.facts.get("list_inside", False)
        self.ask("answer", out=str(out), with_list=with_list, positions=moved)
        with np.load(out) as arrays:
            return dict(arrays)

    def _read(self) -> dict[str, Any]:
        watch = threading.Timer(TIMEOUT, self.process.kill)
        watch.start()
        line = self.process.stdout.readline()
        watch.cancel()
        assert line, "the worker died or took too long"
        reply = json.loads(line)
        if reply.get("kind") == "unsupported":
            pytest.skip(reply["error"])
        assert "error" not in reply, reply["error"]
        return reply


@pytest.fixture(scope="module", params=PEERS)
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    one = Worker(request.param, tmp_path_factory.mktemp(request.param))
    with one.process:
        yield one
        one.process.stdin.close()


@pytest.fixture
def exact(worker: Worker) -> Worker:
    """The plainest backend in the most exact precision of the package."""
    worker.load(worker.peer.backends[0], worker.peer.truth)
    assert worker.facts["truth"] == worker.peer.truth and worker.facts["parameters"] > 1000
    return worker


def mixed() -> list[Structure]:
    """Four crystals and liquids of other sizes, other elements and other cells; none is at rest."""
    sheared = np.array([[1.0, 0.02, 0.0], [-0.03, 1.0, 0.04], [0.0, 0.01, 0.98]])
    made = [cases.copper(2), cases.water(2), cases.diamond(1), cases.copper(2)]
    return [cases.displaced(strained(s, sheared), seed) for seed, s in enumerate(made)]


def molecules() -> list[Structure]:
    """Two clusters of water in vacuum, of two sizes."""
    water = cases.displaced(cases.water(2), 7, 0.05)
    free = replace(water, cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool))
    return [free, replace(free, numbers=free.numbers[:9], positions=free.positions[:9])]


def strained(structure: Structure, matrix: np.ndarray) -> Structure:
    return replace(structure, positions=structure.positions @ matrix, cell=structure.cell @ matrix)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def assert_same(one: Answer, other: Answer, relative: float) -> None:
    """Energies of all atoms together, forces and stress, each against its own size."""
    assert set(one) == set(other)
    scale = {"energy": 1.0 + np.abs(other["energy"]).max()}
    for name, values in other.items():
        assert rms(one[name] - values) <= relative * scale.get(name, rms(values)), name


def test_forces_have_a_size_that_errors_can_be_seen_in(exact: Worker) -> None:
    for structure in mixed():
        assert 0.02 < rms(exact.answer([structure])["forces"]) < 50.0


def test_forces_are_the_slope_of_the_energy(exact: Worker) -> None:
    """The atoms are moved under the edges that were prepared once."""
    if not exact.peer.conservative:
        pytest.skip("forces of this model are no derivatives")
    for structures in (mixed()[:1], mixed(), molecules()):
        forces = exact.answer(structures, stress=False)["forces"]
        start, step = np.concatenate([s.positions for s in structures]), exact.peer.step
        direction = np.random.default_rng(3).normal(size=start.shape)
        energies = [exact.answer_at(start + sign * step * direction)["energy"].sum() for sign in (1, -1)]
        slope = (energies[0] - energies[1]) / (2 * step)
        work = -(forces * direction).sum()
        assert abs(slope - work) < exact.peer.slope * rms(forces) * np.sqrt(forces.size)


def test_stress_is_the_slope_of_the_energy_under_strain(exact: Worker) -> None:
    if not exact.peer.conservative:
        pytest.skip("stress of this model is no derivative")
    step = 0.1 * exact.peer.step
    for structure in mixed():
        (stress,) = exact.answer([structure])["stress"]
        volume = abs(np.linalg.det(structure.cell))
        slopes = np.zeros((3, 3))
        for a, b in [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]:
            shape = np.zeros((3, 3))
            shape[a, b] = shape[b, a] = 1.0 if a == b else 0.5
            up, down = (exact.answer([strained(structure, np.eye(3) + sign * step * shape)])["energy"][0] for sign in (1, -1))
            slopes[a, b] = slopes[b, a] = (up - down) / (2 * step * volume)
        np.testing.assert_allclose(stress, slopes, atol=10.0 * exact.peer.slope * np.abs(stress).max())


def test_a_batch_is_its_systems_one_by_one(exact: Worker) -> None:
    batch, singles = exact.answer(mixed()), [exact.answer([structure]) for structure in mixed()]
    assert_same(batch, {name: np.concatenate([s[name] for s in singles]) for name in batch}, exact.peer.noise)
    assert batch["energy"].shape == (4,) and batch["stress"].shape == (4, 3, 3)


def test_forces_alone_are_those_with_stress(exact: Worker) -> None:
    whole, alone = exact.answer(mixed(), stress=True), exact.answer(mixed(), stress=False)
    assert set(alone) == {"energy", "forces"}
    assert_same(alone, {name: whole[name] for name in alone}, exact.peer.noise)


def test_the_search_finds_the_edges_of_where_atoms_are(exact: Worker) -> None:
    """Far from where the edges were prepared, the search gives what fresh edges give."""
    for structures in (mixed(), molecules()):
        moved = [cases.displaced(s, 11, 0.3) for s in structures]
        fresh = exact.answer(moved, stress=False)
        exact.prepare(structures, stress=False)
        found = exact.answer_at(np.concatenate([s.positions for s in moved]), with_list=True)
        assert_same(found, fresh, exact.peer.noise)


@pytest.mark.parametrize("precision", ["tf32", "fp32"])
def test_lower_precisions_are_near_the_truth(exact: Worker, precision: str) -> None:
    if precision not in exact.peer.lower:
        pytest.skip(f"{precision} is not claimed")
    truth = exact.answer(mixed())
    exact.load(exact.peer.backends[0], precision)
    answer = exact.answer(mixed())
    assert_same(answer, truth, exact.peer.lower[precision])
    assert rms(answer["forces"] - truth["forces"]) > 0.0  # another precision indeed


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_backends_agree(exact: Worker, rank: int) -> None:
    """Alone and in batches, with stress and without, at prepared atoms and at moved ones, with edges given and searched."""
    if rank >= len(exact.peer.backends):
        pytest.skip("there are no more backends")
    ways = [(structures, stress) for structures in (mixed()[:1], mixed()) for stress in (False, True)] + [(molecules(), False)]

    def answers() -> list[Answer]:
        found = []
        for structures, stress in ways:
            found.append(exact.answer(structures, stress))
            start = np.concatenate([s.positions for s in structures])
            moved = start + 1e-3 * np.random.default_rng(5).normal(size=start.shape)
            found.append(exact.answer_at(moved))
        return [*found, exact.answer_at(moved, with_list=True)]

    plain = answers()
    exact.load(exact.peer.backends[rank], exact.peer.truth)
    for one, other in zip(answers(), plain, strict=True):
        assert_same(one, other, 10.0 * exact.peer.noise)


def test_mosso_reads_the_weights_and_finds_the_same(exact: Worker) -> None:
    if exact.package != "mace-torch":
        pytest.skip("mosso reads no weights of this package")
    weights = exact.folder / "weights.model"
    exact.ask("write_weights", out=str(weights))
    found = mosso.load(weights, precision="fp64", device="cpu")(mixed(), stress=True)
    assert found.forces is not None and found.stress is not None
    ours = {"energy": found.energy.numpy(), "forces": found.forces.numpy(), "stress": found.stress.numpy()}
    assert_same(ours, exact.answer(mixed()), 1e-10)


@pytest.mark.parametrize("what", ["evaluation", "list", "both"])
def test_it_is_timed(exact: Worker, what: str) -> None:
    exact.prepare(mixed())
    times = exact.ask("measure", calls=3, warm_up=1, what=what)["ms"]
    assert len(times) == 3 and all(0.0 < ms < 1e6 for ms in times)
    assert 0.01 < exact.ask("memory", with_list=exact.facts.get("list_inside", False))["peak_GB"] < 50.0


def test_atoms_are_forgotten_and_others_taken(exact: Worker) -> None:
    before = exact.answer(mixed())
    exact.ask("release")
    assert_same(exact.answer(mixed()), before, exact.peer.noise)


@pytest.mark.parametrize("engine", ["ase", "own"])
def test_dynamics_run(exact: Worker, engine: str) -> None:
    exact.prepare(mixed()[:1])
    assert exact.ask("dynamics", steps=20, seconds=60.0, engine=engine, timestep=0.1, warm_up=1)["ms"][0] > 0.0
