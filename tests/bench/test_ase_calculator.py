"""A calculator of the user's, served as other packages are: ASE's own EMT, in this interpreter."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT

from mosso.bench import cases
from mosso.bench.competitor import adapter_of
from mosso.bench.truths import Inputs
from mosso.bench.workers import Worker, WorkerError

EMT_OF = {"model": "emt", "backend": "default", "device": "cpu", "factory": "ase.calculators.emt:EMT"}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(Path(sys.executable), adapter_of("ase"), {"OMP_NUM_THREADS": "1"}, tmp_path_factory.mktemp("worker")) as one:
        yield one


def ask(worker: Worker, do: str, **arguments: Any) -> dict[str, Any]:
    return worker.ask(do, 60.0, **arguments)


def test_its_answers_are_those_of_the_calculator(worker: Worker, tmp_path: Path) -> None:
    copper = cases.displaced(cases.copper(2), 0)
    facts = ask(worker, "load", precision="fp32", **EMT_OF)
    assert facts["list_inside"] and facts["truth"] == "fp32" and facts["weights"] is None
    ask(worker, "prepare", inputs=str(Inputs.write("copper", [copper], tmp_path).path), stress=True)
    moved = copper.positions + 0.01 * np.random.default_rng(0).normal(size=copper.positions.shape)
    np.save(tmp_path / "moved.npy", moved)
    ask(worker, "answer", out=str(tmp_path / "answer.npz"), with_list=True, positions=str(tmp_path / "moved.npy"))
    atoms = Atoms(copper.numbers, moved, cell=copper.cell, pbc=copper.pbc, calculator=EMT())
    with np.load(tmp_path / "answer.npz") as answer:
        np.testing.assert_allclose(answer["energy"], [atoms.get_potential_energy()], rtol=1e-12)
        np.testing.assert_allclose(answer["forces"], atoms.get_forces(), atol=1e-12)
        np.testing.assert_allclose(answer["stress"], [atoms.get_stress(voigt=False)], atol=1e-12)
    assert all(ms > 0.0 for ms in ask(worker, "measure", calls=3, what="both")["ms"])
    assert ask(worker, "dynamics", steps=3, seconds=5.0, engine="ase", timestep=0.5)["ms"][0] > 0.0


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"precision": "fp64"}, "unsupported", "takes no precision"),
        ({"precision": "fp32", "backend": "fast"}, "unsupported", "no backend 'fast'"),
        ({"precision": "fp32", "factory": None}, "failure", "module:function"),
        ({"precision": "fp32", "factory": "ase.calculators.emt:Nothing"}, "failure", "Nothing"),
    ],
)
def test_what_it_cannot_do_is_said(worker: Worker, arguments: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(WorkerError, match=message) as told:
        ask(worker, "load", **EMT_OF | arguments)
    assert told.value.kind == kind


def test_a_batch_is_refused(worker: Worker, tmp_path: Path) -> None:
    ask(worker, "load", precision="fp32", **EMT_OF)
    batch = Inputs.write("batch", [cases.copper(2)] * 2, tmp_path)
    with pytest.raises(WorkerError, match="one structure at a time"):
        ask(worker, "prepare", inputs=str(batch.path), stress=False)
