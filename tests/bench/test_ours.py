"""mosso as a competitor: the interface of the adapters, and the searches that CUDA graphs hold, computed eagerly here."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mosso import models
from mosso.bench.matrix import MODELS
from mosso.bench.ours import BACKENDS, Adapter
from mosso.bench.peers.serve import Structures
from mosso.bench.profile.subject import Subject
from mosso.bench.random_weights import checkpoint_of
from mosso.bench.searches import CapturedSearch, EverySearch
from mosso.bench.systems import SYSTEMS
from mosso.data.structure import Batch, Structure
from mosso.engine.artifact import write_artifact
from mosso.engine.potential import Potential, read_checkpoint
from mosso.graph.device_list import DeviceList
from mosso.kernels import dispatch
from mosso.models.mace import MACE
from mosso.models.tabulated_mace import TabulatedMACE


def given(structures: list[Structure]) -> Structures:
    return Structures(
        np.concatenate([s.numbers for s in structures]),
        np.concatenate([s.positions for s in structures]),
        np.repeat(np.arange(len(structures)), [len(s) for s in structures]),
        np.stack([s.cell for s in structures]),
        np.stack([s.pbc for s in structures]),
    )


WATER = given(SYSTEMS["W24"].structures(2))


def adapter(backend: str = "auto", precision: str = "fp64", model: str = "mace-mp0-medium") -> Adapter:
    return Adapter(model, backend, precision, "cpu")


def answered(one: Adapter, stress: bool = True) -> dict[str, np.ndarray]:
    one.prepare(WATER, stress)
    one.place(WATER.positions)
    return one.answer(one.evaluate())


def test_its_answers_are_those_of_the_potential(tiny: None, exact: Potential) -> None:
    found = answered(adapter())
    true = exact(SYSTEMS["W24"].structures(2), stress=True)
    assert np.allclose(found["energy"], true.energy, rtol=1e-12)
    assert np.allclose(found["forces"], true.forces, atol=1e-10)
    assert np.allclose(found["stress"], true.stress, atol=1e-12)
    assert "stress" not in answered(adapter(), stress=False)


def test_its_edges_and_how_they_follow_the_atoms(tiny: None, exact: Potential) -> None:
    one = adapter()
    batch = exact.batch(SYSTEMS["W24"].structures(2))
    assert one.prepare(WATER, stress=False) == exact.graph(batch).num_edges
    elsewhere = WATER.positions + np.random.default_rng(0).normal(scale=0.3, size=WATER.positions.shape)
    true = exact.evaluate(moved := replace(batch, positions_N3=torch.from_numpy(elsewhere)), exact.graph(moved))
    one.place(elsewhere)
    assert np.allclose(one.answer(one.search_and_evaluate())["forces"], true.forces, atol=1e-10)
    one.prepare(WATER, stress=False)
    one.place(elsewhere)
    assert not np.allclose(one.answer(one.evaluate())["forces"], true.forces, atol=1e-3), "the edges given are those of before"
    one.search()
    assert np.allclose(one.answer(one.evaluate())["forces"], true.forces, atol=1e-10)


def test_precisions_and_backends(tiny: None) -> None:
    true, single = answered(adapter()), answered(adapter(precision="fp32"))
    error = np.abs(single["forces"] - true["forces"]).max() / np.abs(true["forces"]).max()
    assert 1e-9 < error < 1e-5
    for same in ("eager", "stock", "stock-eager"):
        assert np.array_equal(answered(adapter(same))["forces"], true["forces"])
    assert np.allclose(answered(adapter("reference"))["forces"], true["forces"], atol=1e-10)


@pytest.mark.parametrize(
    ("backend", "precision", "words"),
    [
        ("fast", "fp32", "no backend 'fast': auto, eager, stock"),
        ("auto", "fp8", "no precision 'fp8': fp64, fp32"),
        ("auto", "tf32", "on CUDA devices only"),
        ("auto", "bf16", "on CUDA devices only"),
        ("triton", "fp32", "run on CUDA"),
    ],
)
def test_what_it_cannot_do(tiny: None, backend: str, precision: str, words: str) -> None:
    with pytest.raises(NotImplementedError, match=words):
        adapter(backend, precision)


def test_facts(tiny: None) -> None:
    facts = adapter().facts
    assert (facts["weights"], facts["weights_sha256"], facts["truth"], facts["tf32"]) == ("random", None, "fp64", None)
    assert facts["parameters"] == sum(p.numel() for p in adapter()._potential.model.parameters()) > 100
    embedded = adapter(model="mosso-xtb-s").facts
    assert embedded["weights"] == "official"
    assert len(embedded["weights_sha256"]) == 64


def test_its_work_is_counted(tiny: None) -> None:
    one = adapter()
    one.prepare(WATER, stress=False)
    work = one.work()
    assert work is not None
    subject = Subject(one._potential, one._given(), one._graph, stress=False)
    assert work["gflops"] == pytest.approx(1e-9 * sum(cost.flops for cost in subject.costs())) != 0.0
    assert work["least_ms"] is None, "the limits of a CPU are not known"
    assert one._graph is not None
    one._graph = replace(one._graph, num_edges=0)  # as lists made on the device have it
    assert one.work() == work


def test_weights_of_a_file(tiny: None, tmp_path) -> None:
    write_artifact(tmp_path / "copy.mosso", read_checkpoint("mosso-xtb-s"))
    facts = Adapter("mosso-xtb-s", "auto", "fp64", "cpu", weights=str(tmp_path / "copy.mosso")).facts
    assert facts["weights"] == "file"
    assert len(facts["weights_sha256"]) == 64


def test_the_reference_uses_the_stock_form_and_plain_ops(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    one = adapter("reference", "fp32")
    assert isinstance(one._potential.evaluator, MACE)
    one.prepare(WATER, stress=False)
    seen = []
    monkeypatch.setattr(one._potential, "evaluate", lambda *arguments, **options: seen.append(dict(dispatch.ON_CUDA)))
    one.evaluate()
    assert set(seen[-1].values()) == {"reference"}
    assert "triton" in dispatch.ON_CUDA.values(), "and not for others"


def test_backends_are_those_of_the_matrix() -> None:
    (competitor,) = MODELS["mosso-xtb-s"].competitors
    assert set(BACKENDS) == {*competitor.backends, *competitor.further}


def test_stock_is_without_tables(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.kernels, "preferred", lambda op, device: "triton")  # where the form with tables is the default
    assert isinstance(Potential(checkpoint_of("mace-mp0-medium", None), precision="fp32").evaluator, TabulatedMACE)
    assert isinstance(adapter("stock", "fp32")._potential.evaluator, MACE)
    assert isinstance(adapter("eager", "fp32")._potential.evaluator, TabulatedMACE)


def test_dynamics_of_both_kinds(tiny: None) -> None:
    one = adapter(precision="fp32")
    box = given(SYSTEMS["W24"].structures(1))
    told: list[int] = []
    one.dynamics(box, 0.5)(9, told.append)
    assert told[-1] == 9 and told == sorted(told), "of blocks"
    (atoms,) = box.atoms()
    atoms.calc = one.calculator()
    one.prepare(box, stress=False)
    assert np.allclose(atoms.get_forces(), one.answer(one.evaluate())["forces"], atol=1e-5)


def test_nothing_is_kept_after_release(tiny: None) -> None:
    one = adapter()
    answered(one)
    one.release()
    with pytest.raises(AssertionError):
        one.evaluate()


def eager(compute, pool):
    """In the place of CUDA graphs."""
    compute()
    return compute


def walk(batch: Batch, steps: tuple[float, ...]):
    for seed, step in enumerate(steps):
        noise = torch.from_numpy(np.random.default_rng(seed).uniform(-step, step, batch.positions_N3.shape))
        batch = replace(batch, positions_N3=batch.positions_N3 + noise)
        yield batch


def test_captured_searches_follow_atoms_wherever_they_go(exact: Potential) -> None:
    batch = exact.batch(SYSTEMS["W24"].structures(2))
    search = CapturedSearch(batch, exact.cutoff, eager)
    for moved in walk(batch, (0.0, 1e-4, 0.3, 3.0, 0.01)):
        graph, true = search.graph(moved), exact.graph(moved)
        count = int(graph.receiver_offsets[-1])
        assert count == true.num_edges
        assert torch.equal(graph.senders_E[:count].long(), true.senders_E.long())
        assert torch.equal(graph.shifts_E3[:count].long(), true.shifts_E3.long())


def test_every_search_gives_a_graph_of_its_own(exact: Potential) -> None:
    """A recording gives the same object at every replay; a recorded evaluation would take that for the edges it has."""

    def same_object(compute, pool):
        result = compute()
        return lambda: (compute(), result)[1]

    batch = exact.batch(SYSTEMS["W24"].structures(1))
    search = CapturedSearch(batch, exact.cutoff, same_object)
    graphs = [search.graph(moved) for moved in walk(batch, (0.0, 0.3))]
    assert graphs[0] is not graphs[1]
    assert graphs[0].senders_E is graphs[1].senders_E


def test_every_evaluation_searches(exact: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = exact.batch(SYSTEMS["W24"].structures(2))
    whole = EverySearch.of(exact, batch, True, recorder=eager)
    searches = []
    rebuild = DeviceList.rebuild
    monkeypatch.setattr(DeviceList, "rebuild", lambda self, batch: (searches.append(1), rebuild(self, batch))[1])
    before = 0
    for moved in walk(batch, (0.0, 1e-4, 1e-4, 0.5)):
        output, true = whole.evaluate(moved), exact.evaluate(moved, exact.graph(moved), stress=True)
        assert torch.allclose(output.forces, true.forces, atol=1e-10) and torch.allclose(output.stress, true.stress, atol=1e-12)
        assert len(searches) > before
        before = len(searches)
