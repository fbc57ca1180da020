"""The fast path on a CUDA device against mace-torch in float64: every golden file, by the rule that the benchmark holds us to.

In fp32 that is bench/checks.py: as much error as rounding to fp32 makes of the system, measured by the reference ops under the same
policy, twice of which passes, or its fixed numbers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from load_goldens import GOLDENS, case_names, load, structures_of
from shared_files import shared_file

from mosso.bench.checks import FAITHFUL, Answer, Errors, Truth, largest
from mosso.bench.truths import MOVED, PLACES
from mosso.data.structure import Structure
from mosso.engine.convert import read_source
from mosso.engine.potential import Potential
from mosso.kernels import dispatch
from mosso.models.tabulated_mace import TabulatedMACE
from mosso.precision import Precision
from mosso.weights.checkpoint import Checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DEVICE = torch.device("cuda")
REAL = ["solvent_01", "solvent_01_swa"]
FP64, FP32 = Precision.named("fp64"), Precision.named("fp32")
FORMS = {"tabulated": FP32, "stock": replace(FP32, table_error=None)}
ENERGY, FORCES = 1e-10, 1e-9  # in fp64, as in tests/parity: of the energy, and of the largest component of forces and of stress


def cases(name: str) -> Iterator[tuple[Checkpoint, str, list[Structure], Answer]]:
    """For each head of a golden file the model, and twice some structures and what mace-torch made of them: those that have a stress,
    and those that have none."""
    if name in REAL:
        checkpoint = read_source(shared_file(f"checkpoints/mace_{name}.model"))
        with np.load(GOLDENS / f"{name}.npz") as file:
            arrays = dict(file)
        structures, heads = structures_of(arrays), list(checkpoint.spec["heads"])
    else:
        golden = load(name)
        checkpoint, arrays, structures, heads = golden.checkpoint, golden.arrays, golden.structures, list(golden.spec.heads)
    ends = np.cumsum([len(s) for s in structures])
    for index, head in enumerate(heads):
        for solid in (True, False):
            chosen = [i for i, s in enumerate(structures) if (s.volume > 0) == solid]
            # mace divides by the volume of a cell that it completes itself; the strain derivative is the same.
            stress = [arrays["stress"][index, i] * arrays["volume"][i] / structures[i].volume for i in chosen if solid]
            forces = [arrays["forces"][index, ends[i] - len(structures[i]) : ends[i]] for i in chosen]
            if chosen:
                answer = Answer(arrays["energy"][index, chosen], np.concatenate(forces), np.stack(stress) if solid else None)
                yield checkpoint, head, [structures[i] for i in chosen], answer


def answer_of(potential: Potential, structures: Sequence[Structure]) -> Answer:
    output = potential(structures)
    stress = output.stress.cpu().numpy() if all(s.volume > 0 for s in structures) else None
    return Answer(output.energy.cpu().numpy(), output.forces.cpu().numpy(), stress)


def truth_of(answer: Answer, structures: Sequence[Structure]) -> Truth:
    return Truth(answer, np.array([len(s) for s in structures]), np.array([s.volume for s in structures]), "mace-torch in float64")


def made_by_rounding(checkpoint: Checkpoint, head: str, structures: Sequence[Structure], answer: Answer, precision: Precision) -> Errors:
    """The largest errors of the reference ops in ``precision``, there and at some places around: few numbers, which chance makes small."""
    with dispatch.prefer("reference"):
        exact, rounded = (Potential(checkpoint, device=DEVICE, precision=p, head=head) for p in (FP64, precision))
        errors = [truth_of(answer, structures).errors(answer_of(rounded, structures))]
        random = np.random.default_rng(0)
        for _ in range(1, PLACES):
            moved = [replace(s, positions=s.positions + MOVED * random.standard_normal(s.positions.shape)) for s in structures]
            errors.append(truth_of(answer_of(exact, moved), moved).errors(answer_of(rounded, moved)))
    made = largest(errors)
    assert made is not None
    return made


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*case_names(), *REAL])
def test_fp32_is_as_faithful_as_the_benchmark_asks(name: str, form: str) -> None:
    for checkpoint, head, structures, answer in cases(name):
        potential = Potential(checkpoint, device=DEVICE, precision=FORMS[form], head=head)
        evaluator = potential.bind(potential.batch(structures)).evaluator
        assert isinstance(potential.evaluator, TabulatedMACE) == (form == "tabulated") == (evaluator is not potential.model)
        truth = truth_of(answer, structures)
        errors = truth.errors(answer_of(potential, structures))
        if truth.refusal(errors, FAITHFUL) is not None:
            truth = replace(truth, reference=made_by_rounding(checkpoint, head, structures, answer, FORMS[form]))
        assert truth.refusal(errors, FAITHFUL) is None, f"{name}, {head}: {truth.refusal(errors, FAITHFUL)}"


@pytest.mark.parametrize("name", [*case_names(), *REAL])
def test_fp64_is_exact(name: str) -> None:
    for checkpoint, head, structures, answer in cases(name):
        found = answer_of(Potential(checkpoint, device=DEVICE, precision=FP64, head=head), structures)
        np.testing.assert_allclose(found.energy, answer.energy, rtol=ENERGY)
        for got, want in ((found.forces, answer.forces), (found.stress, answer.stress)):
            if want is not None:
                assert got is not None and np.abs(got - want).max() <= FORCES * max(np.abs(want).max(), 1e-3)
