"""Which answers pass: at their tolerance, beyond it, not numbers, not what was asked for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mosso.bench.checks import AMPLITUDE, FAITHFUL, TOLERANCES, Answer, Errors, Truth, largest, read_answer, tolerance_of
from mosso.bench.matrix import PRECISIONS

FORCES = np.random.default_rng(0).normal(size=(6, 3))
STRESS = np.stack([np.diag([0.1, 0.2, -0.3]), np.diag([0.0, 0.1, 0.1])])
ANSWER = Answer(np.array([-8.0, -12.0]), FORCES, STRESS)
TRUTH = Truth(ANSWER, np.array([2, 4]), np.array([20.0, 40.0]), "fp64 of us")
RMS = float(np.sqrt((FORCES**2).sum(-1).mean()))


def refusal(found: Answer, precision: str = "fp32", truth: Truth = TRUTH) -> str | None:
    return truth.refusal(truth.errors(found), TOLERANCES[precision])


def test_every_precision_has_a_tolerance_and_they_widen() -> None:
    assert set(TOLERANCES) == set(PRECISIONS)
    assert [t.name for t in TOLERANCES.values()] == [f"{precision}/1" for precision in TOLERANCES]
    order = [TOLERANCES[name] for name in ("fp64", "fp32", "tf32", "bf16")]
    assert all(a.forces < b.forces and a.energy < b.energy and a.stress < b.stress for a, b in zip(order, order[1:], strict=False))


def test_errors_are_what_they_are_called() -> None:
    off = FORCES.copy()
    off[0, 0] += 0.06
    found = TRUTH.errors(Answer(np.array([-8.0, -12.4]), off, STRESS + 0.01))
    assert found.error_energy == pytest.approx(0.1), "eV an atom, the worst structure"
    assert found.error_forces == pytest.approx(0.06 / np.sqrt(6))
    assert found.error_forces_relative == pytest.approx(found.error_forces / RMS)
    assert found.error_stress == pytest.approx(0.01)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("part", "unit"), [("forces", "of their size"), ("energy", "eV/atom"), ("stress", "eV/A^3")])
def test_just_within_passes_and_just_beyond_does_not(part: str, unit: str, precision: str) -> None:
    tolerance = TOLERANCES[precision]
    allowed = {
        "forces": tolerance.forces * RMS / np.sqrt(3),
        "energy": tolerance.energy * (4.0 + AMPLITUDE * RMS) * 2,  # of two atoms
        "stress": tolerance.stress * (0.3 + 0.1 * AMPLITUDE * RMS),
    }[part]
    for share, passes in ((0.98, True), (1.02, False)):
        found = replace(ANSWER, **{part: getattr(ANSWER, part) + share * allowed * (np.array([1, 0]) if part == "energy" else 1.0)})
        said = refusal(found, precision)
        assert (said is None) == passes, said
        assert passes or (said.startswith(f"{part} off by") and unit in said)


def faithful(found: Answer, reference: Errors | None = None, truth: Truth = TRUTH) -> str | None:
    return replace(truth, reference=reference).refusal(truth.errors(found), FAITHFUL)


def test_largest_of_several_errors() -> None:
    assert largest([]) is None
    assert largest([Errors(1.0, 5.0, 2.0, None), Errors(3.0, 4.0, 1.0, 7.0, 0.5)]) == Errors(3.0, 5.0, 2.0, 7.0, 0.5)
    assert largest([Errors(1.0, 5.0, 2.0, None)]) == Errors(1.0, 5.0, 2.0, None, None)


def test_fp32_of_mosso_is_held_to_more() -> None:
    assert tolerance_of("mosso", "fp32") is FAITHFUL
    assert tolerance_of("mosso", "tf32") is TOLERANCES["tf32"] and tolerance_of("mace-torch", "fp32") is TOLERANCES["fp32"]
    assert FAITHFUL.forces <= TOLERANCES["fp32"].forces / 100


@pytest.mark.parametrize(("part", "unit"), [("forces", "of their size"), ("energy", "eV/atom"), ("stress", "eV/A^3")])
@pytest.mark.parametrize("made", [0.0, 0.4, 3.0])
def test_as_exact_as_float32_or_twice_what_the_reference_makes(part: str, unit: str, made: float) -> None:
    """``made``: errors of the reference ops in units of what passes without them."""
    reference = Errors(made * 1e-7, 0.0, made * 1e-6, made * 1e-6 * 0.3)
    within = max(1.0, 2 * made)
    size = {"forces": 1e-6 * RMS / np.sqrt(3), "energy": 1e-7 * np.array([2, 0]), "stress": 1e-6 * 0.3}[part]
    for share, passes in ((0.98, True), (1.02, False)):
        said = faithful(replace(ANSWER, **{part: getattr(ANSWER, part) + share * within * size}), reference)
        assert (said is None) == passes, said
        assert passes or (said.startswith(f"{part} off by") and unit in said)
    assert (faithful(replace(ANSWER, **{part: getattr(ANSWER, part) + 0.98 * within * size}), None) is None) == (within == 1.0)


def test_an_energy_is_judged_by_the_atom_and_not_by_the_digits_of_its_total() -> None:
    near_zero = replace(TRUTH, answer=replace(ANSWER, energy=np.array([1e-9, -1e-9])))
    off = Answer(near_zero.answer.energy + 1e-7, FORCES, STRESS)
    assert faithful(off, truth=near_zero) is None
    assert near_zero.errors(off).error_energy_relative == pytest.approx(100)


def test_the_truth_of_copies_is_that_of_the_cells() -> None:
    large = TRUTH.repeated((1, 2, 3))
    assert np.array_equal(large.answer.energy, 6 * ANSWER.energy)
    assert np.array_equal(large.answer.forces[:12], np.tile(FORCES[:2], (6, 1))), "copy after copy, structure after structure"
    assert np.array_equal(large.answer.forces[12:], np.tile(FORCES[2:], (6, 1)))
    assert large.answer.stress is STRESS
    assert (large.energy, large.density) == (TRUTH.energy, TRUTH.density)


def test_several_faults_are_told_together() -> None:
    said = refusal(Answer(ANSWER.energy + 1, FORCES * 1.1, STRESS + 1))
    assert [part.split()[0] for part in said.split("; ")] == ["energy", "forces", "stress"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_never_passes(value: float) -> None:
    forces = FORCES.copy()
    forces[3, 1] = value
    assert "forces off" in refusal(replace(ANSWER, forces=forces), "bf16")
    assert "energy off" in refusal(replace(ANSWER, energy=np.array([-8.0, value])), "bf16")
    fields = TRUTH.errors(replace(ANSWER, forces=forces)).fields()
    assert fields["error_forces"] is None and fields["error_forces_relative"] is None
    assert fields["error_energy"] == 0.0


def test_an_energy_near_zero_can_be_right() -> None:
    truth = replace(TRUTH, answer=replace(ANSWER, energy=np.zeros(2)))
    assert refusal(replace(ANSWER, energy=np.array([1e-6, 0.0])), truth=truth) is None
    assert refusal(replace(ANSWER, energy=np.array([1e-2, 0.0])), truth=truth) is not None


def test_stress_counts_where_there_is_one() -> None:
    nothing = replace(ANSWER, stress=None)
    assert TRUTH.errors(nothing).error_stress is None
    assert refusal(nothing) is None
    molecule = replace(TRUTH, volumes=np.zeros(2))
    assert refusal(replace(ANSWER, stress=STRESS + 1), truth=molecule) is None


@pytest.mark.parametrize("found", [Answer(np.zeros(3), FORCES, None), Answer(np.zeros(2), FORCES[:5], None)])
def test_answers_for_other_atoms_are_refused(found: Answer) -> None:
    with pytest.raises(ValueError, match="not those asked for"):
        TRUTH.errors(found)


def test_reading_what_a_worker_wrote(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", energy=ANSWER.energy, forces=FORCES)
    found = read_answer(tmp_path / "a.npz")
    assert found.stress is None and np.array_equal(found.forces, FORCES)
    np.savez(tmp_path / "b.npz", energy=ANSWER.energy)
    with pytest.raises(ValueError, match="holds no forces"):
        read_answer(tmp_path / "b.npz")
