"""Averages of the density study, on series whose answer is known, and its two sides on a few molecules."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "water_density"
MODULES = ("averages", "report", "sides", "density")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The recipe's script; its modules are found beside it."""
    monkeypatch.syspath_prepend(str(RECIPE))
    import density

    yield density
    for name in MODULES:
        sys.modules.pop(name, None)


def correlated(memory: float, lengths: list[int], seed: int = 0, mean: float = 0.0) -> list[np.ndarray]:
    """x' = memory x + noise of unit stationary variance: its inefficiency is (1 + memory) / (1 - memory)."""
    rng, series = np.random.default_rng(seed), []
    for length in lengths:
        x, noise = np.empty(length), np.sqrt(1.0 - memory**2) * rng.standard_normal(length)
        x[0] = rng.standard_normal()
        for t in range(1, length):
            x[t] = memory * x[t - 1] + noise[t]
        series.append(mean + x)
    return series


@pytest.mark.parametrize("memory", [0.0, 0.9, 0.98])
def test_errors_of_correlated_series(recipe: ModuleType, memory: float) -> None:
    from averages import average

    found = average(correlated(memory, [9000] * 8 + [6000] * 4))
    exact = (1.0 + memory) / (1.0 - memory)
    assert found.samples == 96_000
    assert found.inefficiency == pytest.approx(exact, rel=0.15)
    error = np.sqrt(exact / found.samples)
    assert found.error == pytest.approx(error, rel=0.12)
    assert found.error_from_blocks == pytest.approx(error, rel=0.3)
    assert 0.4 < found.error_from_replicas / error < 1.8
    assert abs(found.mean) < 4.0 * error


def test_errors_cover_the_truth_as_often_as_they_should(recipe: ModuleType) -> None:
    from averages import average

    within = []
    for seed in range(150):
        found = average(correlated(0.9, [400] * 4, seed, mean=1.4))
        within.append(abs(found.mean - 1.4) < found.error)
    assert 0.55 < np.mean(within) < 0.8  # 0.68 of a normal distribution; binomial error 0.04


def test_a_stuck_replica_counts_as_correlated(recipe: ModuleType) -> None:
    from averages import average

    replicas = correlated(0.5, [2000] * 8)
    shifted = [one + (3.0 if r == 0 else 0.0) for r, one in enumerate(replicas)]
    assert average(shifted).error > 10.0 * average(replicas).error


def test_variance_over_the_mean_has_an_honest_error(recipe: ModuleType) -> None:
    from averages import relative_variance

    rng = np.random.default_rng(1)
    value, error = relative_variance([50.0 + 2.0 * rng.standard_normal(2000) for _ in range(16)])
    assert error == pytest.approx(np.sqrt(2.0 / 32_000) * 0.08, rel=0.5)
    assert abs(value - 0.08) < 4.0 * error


def test_report_finds_what_was_put_in(recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sides that differ by 2 % in density, errors of 0.16 % each: found, with the variance of the volume as the compressibility."""
    from mosso.dynamics.units import BAR, GRAM_PER_CM3, KB

    numbers, kappa, mean = np.array([8, 1, 1] * 64), 4.6e-5, 1900.0
    mass = 64 * 18.015
    np.savez(tmp_path / "starts.npz", numbers=numbers)
    deviation = np.sqrt(kappa / BAR * KB * 300.0 * mean)
    for seed, (side, shift) in enumerate({"mosso-isotropic": 1.0, "ase-mtk": 1.02, "ase-langevin": 1.0}.items()):
        volumes = np.array([mean / shift + deviation * one for one in correlated(0.95, [5000] * 4, seed)])
        volumes[:, :1000] *= 0.5  # equilibration, to be cut: a fifth is more than 5 ps here
        density, other = GRAM_PER_CM3 * mass / volumes, correlated(0.0, [5000] * 4, seed + 10, mean=300.0)
        arrays = {"time": 0.01 * np.arange(5000), "density": density, "temperature": other, "pressure": other}
        np.savez(tmp_path / f"{side}.npz", about=json.dumps({"side": side, "starts": [0, 1, 0, 1], "seconds": 1.0}), **arrays)
    options = [f"--folder={tmp_path}", f"--out={tmp_path}/out.json", "--device=cpu"]
    recipe.analyse(recipe.parse(["analyse", *options]))
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["density"]["mosso-isotropic - ase-mtk"]["percent"] == pytest.approx(-2.0, abs=0.9)
    assert not found["density"]["mosso-isotropic - ase-mtk"]["agree"]
    assert found["density"]["mosso-isotropic - ase-langevin"]["agree"]
    for side in ("mosso-isotropic", "ase-mtk", "ase-langevin"):
        one = found["sides"][side]
        assert one["compressibility_per_bar"]["mean"] == pytest.approx(kappa, rel=0.15)
        assert abs(one["dense_starts_minus_thin_ones"]["sigmas"]) < 4.0
        assert one["density_goal_reached"]
    assert found["sides"]["ase"]["replicas"] == 8
    assert max(len(one["density_g_per_cm3"]) for one in found["series"]["ase-mtk"]) <= 400
    assert "| mosso-isotropic - ase-mtk |" in capsys.readouterr().out


def test_both_sides_run_and_stop_at_the_limit(recipe: ModuleType, tmp_path: Path) -> None:
    """Four molecules for some steps: every side writes its series, from starts that are denser and thinner."""
    rng = np.random.default_rng(0)
    shape = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])
    places = 4.5 * np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]])
    positions = [shape @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + place for place in places]
    write(tmp_path / "water4.extxyz", Atoms("OHH" * 4, np.concatenate(positions), cell=[9.0] * 3, pbc=True))
    common = [f"--folder={tmp_path}", f"--structure={tmp_path}/water4.extxyz", "--device=cpu", "--replicas=2", "--every=2"]
    for words in ("equilibrate --equilibration=0.001", "mosso --steps=4", "mosso --coupling=anisotropic --until=1", "ase --steps=4",
                  "ase --barostat=langevin --number=1 --steps=4"):  # fmt: skip
        options = recipe.parse([*words.split(), *common])
        recipe.VERBS[options.verb](options)
    with np.load(tmp_path / "starts.npz") as starts:
        dense, thin = (abs(np.linalg.det(cell)) for cell in starts["cells"])
    assert 0.9 < dense / thin < 0.97
    lengths = {}
    for path in tmp_path.glob("*-*.npz"):
        with np.load(path) as run:
            lengths[path.stem] = len(run["time"])
            assert run["density"].shape == run["pressure"].shape == (len(json.loads(str(run["about"]))["starts"]), len(run["time"]))
            assert np.isfinite(run["density"]).all() and np.isfinite(run["pressure"]).all()
    assert lengths == {"mosso-isotropic": 3, "mosso-anisotropic": 1, "ase-mtk-0": 3, "ase-langevin-1": 3}
