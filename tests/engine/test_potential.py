"""load and Potential: names, files, heads, what is refused and how results are shaped."""

import functools
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from models.zoo import checkpoint, potential
from systems import water_box

import mosso
from mosso.data.structure import Structure
from mosso.engine.artifact import read_manifest, write_artifact
from mosso.engine.convert import convert
from mosso.engine.potential import Potential
from mosso.weights import store

PICKLED = Path(__file__).parents[1] / "parity" / "goldens" / "small_density_agnesi_zbl.model"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Nothing on the test's stderr."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served on the loopback as the mirror of all named models, with an empty cache."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("MOSSO_MODEL_MIRROR", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("MOSSO_CACHE", str(tmp_path / "cache"))
        yield folder
        server.shutdown()
        thread.join()


def test_a_named_model_is_fetched_converted_and_kept(mirror: Path, tmp_path: Path) -> None:
    entry = store.find("mace-mp-0-medium")
    (mirror / entry.file_name).write_bytes(PICKLED.read_bytes())
    structure = Structure(np.array([8, 29]), np.array([[0, 0, 0], [0, 0, 1.9]]))
    first = mosso.load("mace-mp-0-medium", head="Default")
    assert first.manifest["provenance"]["licence"] == entry.licence
    assert first.manifest["provenance"]["source"] == entry.name
    (mirror / entry.file_name).unlink()
    again = mosso.load("mace-mp-0-medium", head="Default")
    assert torch.equal(first(structure).forces, again(structure).forces)
    kept = list((tmp_path / "cache").rglob("*.mosso"))
    assert len(kept) == 1


def test_a_converted_file_is_converted_again_when_its_source_changed(mirror: Path, tmp_path: Path) -> None:
    entry = store.find("mace-mp-0-medium")
    (mirror / entry.file_name).write_bytes(PICKLED.read_bytes())
    mosso.load("mace-mp-0-medium", head="Default")
    (kept,) = (tmp_path / "cache").rglob("*.mosso")
    write_artifact(kept, checkpoint("mace-plain"))
    assert mosso.load("mace-mp-0-medium", head="Default").species == (8, 29)


def test_convert_load_and_direct_load_agree(tmp_path: Path) -> None:
    manifest = convert(PICKLED, tmp_path / "small.mosso")
    assert manifest["heads"] == ["pt_head", "Default"]
    structure = Structure(np.array([8, 29, 29]), np.random.default_rng(0).normal(scale=2, size=(3, 3)))
    converted, direct = (mosso.load(path, head="pt_head") for path in (tmp_path / "small.mosso", PICKLED))
    assert torch.equal(converted(structure).energy, direct(structure).energy)
    assert read_manifest(tmp_path / "small.mosso").provenance.source == PICKLED.name


def test_state_dict_round_trips_to_the_stock_tensors() -> None:
    made = checkpoint("mace-density-agnesi-zbl")
    state = Potential(made).model.state_dict()
    assert state.keys() <= made.tensors.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, made.tensors[name].to(tensor.dtype)), name


def test_shapes_of_results() -> None:
    pot = potential("mace-plain")
    atoms = molecule("H2O")
    one, many = pot(atoms), pot([atoms, atoms])
    assert one.energy.shape == ()
    assert one.forces.shape == (3, 3)
    assert one.stress is None
    assert many.energy.shape == (2,)
    assert many.forces.shape == (6, 3)
    assert [part.forces.shape for part in many.split()] == [(3, 3), (3, 3)]
    assert pot(atoms, forces=False).forces is None
    crystal = bulk("C", "diamond", a=3.6)
    assert pot(crystal).stress.shape == (3, 3)
    mixed = pot([atoms, crystal]).stress
    assert mixed[0].isnan().all()
    assert mixed[1].isfinite().all()
    assert pot([]).energy.shape == (0,)


def test_energy_is_float64_and_names_its_precision() -> None:
    output = potential("mace-plain", "fp32")(molecule("H2O"))
    assert output.energy.dtype == torch.float64
    assert output.node_energies.dtype == torch.float64
    assert output.precision == "fp32"
    assert float(output.node_energies.sum()) == pytest.approx(float(output.energy), rel=1e-14)


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (Structure(np.array([1, 79, 92]), np.eye(3) * 3), r"elements Au, U; it knows H, C, O"),
        (Structure(np.array([1]), np.zeros((1, 3)), charge=1), "total charge 0 .* the structure has 1"),
        (Structure(np.array([1]), np.zeros((1, 3)), spin=2), "spin multiplicity 1, .* has 0 and 2"),
        (Structure(np.array([1, 1]), np.zeros((2, 3))), "Structure 0: atoms 0 and 1 .* remove one"),
    ],
)
def test_what_the_model_cannot_do_is_refused(structure: Structure, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        potential("mace-plain")(structure)


def test_stress_needs_a_volume() -> None:
    with pytest.raises(ValueError, match="Stress needs a cell with a volume"):
        potential("mace-plain")(molecule("H2O"), stress=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "Unknown precision 'fp8': choose one of fp64, fp32"),
        ({"device": "cuda:99"}, "is not there"),
        ({"device": "tpu"}, "Unknown device 'tpu': choose auto, cpu or cuda"),
        ({"head": "none"}, "no head 'none': choose one of pt_head, Default"),
        ({}, "2 heads: name one of pt_head, Default"),
    ],
)
def test_wrong_options_say_what_exists(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mosso.load(PICKLED, **{"device": "cpu", **options})


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.mosso"):
        mosso.load(tmp_path / "nothing.mosso")
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(ValueError, match="known endings"):
        mosso.load(tmp_path / "weights.h5")
    with pytest.raises(ValueError, match=r"ends in \.mosso"):
        convert(PICKLED, tmp_path / "out.bin")
    assert [p.name for p in tmp_path.iterdir()] == ["weights.h5"]


def test_kernels_are_compiled_once_for_a_choice_of_outputs_and_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA devices all at once, which is left out elsewhere; what is compiled for is asked for here."""
    asked = []
    monkeypatch.setattr("mosso.kernels.compile_together", lambda compute, device: asked.append((compute().stress is not None, device.type)))
    pot = potential("mace-plain", "fp32")
    for structure in (water_box(1), water_box(1), water_box(2)):
        batch = pot.batch([structure])
        for stress in (False, True, True):
            pot.evaluate(batch, pot.graph(batch), stress=stress)
    assert asked == [(False, "cpu"), (True, "cpu")] * 2


def test_a_bound_potential_is_the_potential_for_its_atoms() -> None:
    made = potential("mace-zbl-unscaled")
    batch = made.batch([water_box(2, seed=1), Structure.of(molecule("H2O"))])
    bound = made.bind(batch)
    for scale in (1.0, 1.02):
        moved = replace(batch, positions_N3=scale * batch.positions_N3, cell_B33=scale * batch.cell_B33)
        graph = made.graph(moved)
        ours, theirs = bound.evaluate(moved, graph, stress=True), made.evaluate(moved, graph, stress=True)
        assert torch.equal(ours.energy, theirs.energy)
        assert torch.equal(ours.forces, theirs.forces)
        assert torch.equal(ours.stress[0], theirs.stress[0])
    with pytest.raises(ValueError, match="does not know element"):
        made.bind(made.batch([bulk("Cu")]))
