"""The packed GFN2-xTB training set and the task list it comes from."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "xtb_hcno"
PACKED = RECIPE / "xtb_hcno.npz"
# GFN2-xTB energies (eV) of the isolated atoms; H, C, O as in the public carbonate-solvent data.
ISOLATED = {1: -10.7072, 6: -48.8474, 7: -71.0068, 8: -102.5712}


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    """All arrays of the packed file."""
    if not PACKED.exists():
        pytest.skip("the training set has not been generated")
    with np.load(PACKED) as packed:
        return {key: packed[key] for key in packed.files}


def test_arrays_are_consistent(data: dict[str, np.ndarray]) -> None:
    offsets, frames, atoms = data["offsets"], len(data["energies"]), len(data["numbers"])
    assert offsets[0] == 0
    assert offsets[-1] == atoms
    assert (np.diff(offsets) > 0).all()
    assert len(offsets) == frames + 1
    assert len(data["group"]) == len(data["task"]) == len(data["system"]) == frames
    assert data["positions"].shape == data["forces"].shape == (atoms, 3)
    assert data["group"].max() < len(data["group_names"])
    assert data["task"].max() < len(data["task_names"])
    assert data["system"].max() < len(data["system_names"])
    assert {key: str(data[key].dtype) for key in ("numbers", "positions", "forces", "energies", "offsets", "group", "task")} == {
        "numbers": "uint8", "positions": "float32", "forces": "float32", "energies": "float64", "offsets": "int64", "group": "uint8",
        "task": "int32",
    }  # fmt: skip


def test_values_are_finite_and_physical(data: dict[str, np.ndarray]) -> None:
    for key in ("positions", "forces", "energies"):
        assert np.isfinite(data[key]).all()
    assert set(np.unique(data["numbers"])) == {1, 6, 7, 8}
    assert np.abs(data["forces"]).max() <= 40.0
    net = np.add.reduceat(data["forces"].astype(np.float64), data["offsets"][:-1])
    assert np.abs(net).max() < 1e-3
    # Every frame is within a sensible range of its separated atoms: no broken label (energies per atom in eV).
    atoms = np.zeros(9)
    atoms[list(ISOLATED)] = list(ISOLATED.values())
    binding = (data["energies"] - np.add.reduceat(atoms[data["numbers"]], data["offsets"][:-1])) / np.diff(data["offsets"])
    assert binding.min() > -12.0
    assert binding.max() < 15.0


def test_isolated_atoms(data: dict[str, np.ndarray]) -> None:
    single = np.nonzero(np.diff(data["offsets"]) == 1)[0]
    found = {int(data["numbers"][data["offsets"][i]]): data["energies"][i] for i in single}
    assert found == pytest.approx(ISOLATED, abs=1e-3)


def test_size_and_balance(data: dict[str, np.ndarray]) -> None:
    assert PACKED.stat().st_size < 20_000_000
    share = np.bincount(data["group"], minlength=len(data["group_names"])) / len(data["group"])
    by_name = dict(zip(data["group_names"].tolist(), share, strict=True))
    for name in ("water", "carbonates", "molecules"):
        assert by_name[name] > 0.1


def test_task_belongs_to_one_system_and_group(data: dict[str, np.ndarray]) -> None:
    for key in ("system", "group"):
        pairs = np.unique(np.stack([data["task"], data[key]]), axis=1)
        assert len(np.unique(pairs[0])) == pairs.shape[1]


def test_task_list_is_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rdkit")
    pytest.importorskip("scipy")
    monkeypatch.syspath_prepend(str(RECIPE))
    import systems

    first = systems.task_list()
    assert first == systems.task_list()
    assert sorted(task.index for task in first) == list(range(len(first)))
    assert {task.group for task in first} == set(systems.GROUPS)
    task = next(t for t in first if t.group == "mixtures")
    one, owner = systems.build(task)
    two, _ = systems.build(task)
    assert np.array_equal(one.positions, two.positions)
    assert owner.max() == len(task.names) - 1
    sys.modules.pop("systems", None)
