"""Series: whichever way atoms are evaluated again and again, the numbers are those of an evaluation from nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from models.zoo import potential as zoo_potential
from systems import water_box

from mosso.data.structure import Batch
from mosso.engine.potential import Potential
from mosso.engine.series import OnDevice, OnHost, Series
from mosso.models.outputs import Output


@pytest.fixture(scope="module")
def potential() -> Potential:
    return zoo_potential("mace-residual-first", "fp64")


def moved(batch: Batch, step: float, seed: int) -> Batch:
    noise = torch.from_numpy(np.random.default_rng(seed).uniform(-step, step, batch.positions_N3.shape))
    return replace(batch, positions_N3=batch.positions_N3 + noise)


class Recorder:
    """In the place of CUDA graphs: computes again at every call, and counts."""

    def __init__(self) -> None:
        self.recordings = self.replays = 0

    def __call__(self, compute: Callable[[], Output], pool: Any) -> Callable[[], Output]:
        self.recordings += 1
        compute()

        def replay() -> Output:
            self.replays += 1
            return compute()

        return replay


def assert_fresh(output: Output, potential: Potential, batch: Batch) -> None:
    want = potential.evaluate(batch, potential.graph(batch), stress=True)
    for got, true in ((output.energy, want.energy), (output.forces, want.forces), (output.stress, want.stress)):
        torch.testing.assert_close(got, true, rtol=1e-10, atol=1e-10)


def test_walk_with_small_and_large_steps(potential: Potential) -> None:
    recorder, batch = Recorder(), potential.batch([water_box(2)])
    atoms = OnDevice(potential, batch, 0.5, True, recorder)
    for seed, step in enumerate((0.0, 0.02, 0.02, 0.3, 0.02, 3.0, 0.02)):
        batch = moved(batch, step, seed)
        assert_fresh(atoms.evaluate(batch), potential, batch)
    assert recorder.recordings == 2, "one form with a search and one without"
    assert recorder.replays == 7 + 2, "only the two steps that leave the skin are computed again"


def test_cells_move_and_lists_grow(potential: Potential) -> None:
    recorder, batch = Recorder(), potential.batch([water_box(2)])
    atoms = OnDevice(potential, batch, 0.3, True, recorder)
    for scale in (1.0, 0.99, 0.9, 0.8, 1.2):
        smaller = replace(batch, positions_N3=scale * batch.positions_N3, cell_B33=scale * batch.cell_B33)
        assert_fresh(atoms.evaluate(smaller), potential, smaller)
    assert recorder.recordings > 2, "a denser box needs larger buffers, and those a new recording"


def test_positions_that_are_none_are_named_and_forgiven(potential: Potential) -> None:
    batch = potential.batch([water_box(2)])
    atoms = OnDevice(potential, batch, 0.5, True, Recorder())
    atoms.evaluate(batch)
    broken = replace(batch, positions_N3=batch.positions_N3.clone())
    broken.positions_N3[1] = torch.nan
    with pytest.raises(ValueError, match="atom 1"):
        atoms.evaluate(broken)
    assert_fresh(atoms.evaluate(batch), potential, batch)


def test_same_atoms_are_known_again(potential: Potential) -> None:
    batch = potential.batch([water_box(2)])
    same = OnHost(potential, batch, 0.5, True)
    assert same.fits(moved(batch, 1.0, 0), True)
    assert not same.fits(batch, False)
    assert not same.fits(replace(batch, numbers_N=batch.numbers_N.flip(0)), True)
    assert not same.fits(replace(batch, pbc_B3=~batch.pbc_B3), True)
    assert not same.fits(potential.batch([water_box(1)]), True)


def test_other_atoms_and_stress_in_between(potential: Potential) -> None:
    series = Series(potential, 0.5)
    for batch in (potential.batch([water_box(2)]), potential.batch([water_box(1)]), potential.batch([water_box(2)])):
        assert series.evaluate(batch, False).stress is None
        assert_fresh(series.evaluate(batch, True), potential, batch)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_captured_from_the_second_evaluation_on() -> None:
    from mosso.kernels import dispatch

    on_gpu = zoo_potential("mace-residual-first", "fp32", device="cuda")
    series, batch = Series(on_gpu, 0.5), on_gpu.batch([water_box(2)])
    with dispatch.prefer("triton"):
        for step in (0.0, 0.02, 0.02, 1.0, 0.02):
            batch = replace(batch, positions_N3=batch.positions_N3 + step * torch.randn_like(batch.positions_N3))
            want = on_gpu.evaluate(batch, on_gpu.graph(batch), stress=True)
            got = series.evaluate(batch, True)
            torch.testing.assert_close(got.forces, want.forces, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(got.stress, want.stress, rtol=1e-4, atol=1e-5)
    assert isinstance(series._current, OnDevice)
