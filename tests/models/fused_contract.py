"""MACE made of the Triton ops alone, tabulated and stock, against the stock form made of the references.

Every op has a contract of its own; this is about how they fit together: layouts, dtypes, padding, what autograd hands over.
"""

from dataclasses import replace

import pytest
import systems
import torch
from kernels.contract import DEVICE
from models import zoo

from mosso import Precision
from mosso.engine.potential import Potential
from mosso.kernels import dispatch
from mosso.models import outputs, tabulated_mace
from mosso.models.base import Evaluator, species_index
from mosso.models.outputs import Output
from mosso.models.tabulated_mace import MAX_MOMENTS, TabulatedMACE

STRUCTURES = [systems.dimer(1.3, (6, 8)), systems.water_box(1)]
NAMES = ["mace-residual-first", "mace-density-agnesi-zbl"]
# Precision, bound of the errors, and the most species whose first layer is made of moments.
FORMS = {
    "tabulated-fp64": (replace(Precision.named("fp64"), table=torch.float64, table_error=1e-7), 2e-7, MAX_MOMENTS),
    "tabulated-fp32": (Precision.named("fp32"), 2e-6, MAX_MOMENTS),
    "tabulated-fp32-many-species": (Precision.named("fp32"), 2e-6, 1),
    "stock-fp32": (replace(Precision.named("fp32"), table_error=None), 2e-6, MAX_MOMENTS),
}


def evaluate(potential: Potential, model: Evaluator, padding: int) -> Output:
    batch = potential.batch(STRUCTURES)
    graph = potential.graph(batch)
    species_N = species_index(batch.numbers_N, potential.species)
    return outputs.evaluate(model, batch, graph.padded(graph.capacity + padding), species_N, forces=True, stress=True, virials=True)


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("name", NAMES)
def test_forces_and_stress(name: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    precision, bound, moments = FORMS[form]
    monkeypatch.setattr(tabulated_mace, "MAX_MOMENTS", moments)
    exact, potential = (Potential(zoo.checkpoint(name), precision=p, device=DEVICE) for p in ("fp64", precision))
    with dispatch.prefer("reference"):
        wanted = evaluate(exact, exact.model, 0)
    monkeypatch.setattr(dispatch, "preferred", lambda op, device: "triton")
    model = potential.model if precision.table_error is None else TabulatedMACE(potential.model)  # type: ignore[arg-type]
    found = evaluate(potential, model, 7)
    for quantity in ("node_energies", "forces", "virials"):
        got, want = getattr(found, quantity), getattr(wanted, quantity)
        assert float((got - want).norm() / want.norm()) < bound, quantity
    assert float((found.stress - wanted.stress)[1].norm() / wanted.stress[1].norm()) < bound
