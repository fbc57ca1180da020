"""The tabulated form of MACE against the stock one."""

from dataclasses import replace

import pytest
import systems
import torch
from models import zoo

from mosso import Precision
from mosso.engine.potential import Potential
from mosso.kernels import dispatch
from mosso.models import evaluation_form, outputs, tabulated_mace
from mosso.models.base import species_index
from mosso.models.outputs import Output
from mosso.models.tabulated_mace import TabulatedMACE

TABULATED = replace(Precision.named("fp64"), table_error=1e-7)
STRUCTURES = [systems.water_box(2), systems.water_molecule(), systems.dimer(1.3, (6, 8)), systems.dimer(9.0, (1, 1))]


def evaluate(potential: Potential, tabulated: bool) -> Output:
    batch = potential.batch(STRUCTURES)
    model = TabulatedMACE(potential.model) if tabulated else potential.model
    species_N = species_index(batch.numbers_N, potential.species)
    head = potential.heads.index(potential.head)
    return outputs.evaluate(model, batch, potential.graph(batch), species_N, head=head, forces=True, stress=True)


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", list(zoo.SPECS))
def test_agrees_with_the_stock_form_within_the_error_of_the_tables(name: str) -> None:
    potential = Potential(zoo.checkpoint(name), precision=TABULATED, head=zoo.SPECS[name].heads[-1])
    found, wanted = evaluate(potential, True), evaluate(potential, False)
    torch.testing.assert_close(found.energy, wanted.energy, rtol=1e-9, atol=1e-9)
    assert difference(found.forces, wanted.forces) < 2e-7
    solid = slice(0, 1)  # the molecules have no volume
    assert difference(found.stress[solid], wanted.stress[solid]) < 2e-7


@pytest.mark.parametrize("name", ["mace-residual-first", "mace-density-agnesi-zbl"])
def test_float32_is_faithful(name: str) -> None:
    found = evaluate(zoo.potential(name, "fp32"), True)
    wanted = evaluate(zoo.potential(name, "fp64"), False)
    assert difference(found.forces, wanted.forces) < 1e-6
    assert difference(found.energy, wanted.energy) < 1e-7


def test_too_strict_a_policy_is_refused() -> None:
    potential = Potential(zoo.checkpoint("mace-plain"), precision=replace(TABULATED, table_error=1e-15), head="Default")
    with pytest.raises(ValueError, match="cannot be tabulated within 1e-15"):
        evaluate(potential, True)


@pytest.mark.parametrize("name", ["mace-residual-first", "mace-density-agnesi-zbl"])
def test_what_there_is_no_room_for_is_evaluated_in_the_stock_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = Potential(zoo.checkpoint(name), precision=TABULATED)
    model = TabulatedMACE(potential.model)
    transformed = potential.model.spec.distance_transform != "none"
    model.tables((0, 2))
    monkeypatch.setattr(tabulated_mace, "MAX_KINDS", 4)
    assert model.has_room((0, 2))
    assert model.has_room((1,))  # one kind more at most
    assert model.has_room((0, 1)) is not transformed
    monkeypatch.setattr(tabulated_mace, "MAX_SETS", 1)
    assert not model.has_room((1,))
    batch = potential.batch([systems.dimer(1.3, (6, 8))])
    species_N = species_index(batch.numbers_N, potential.species)
    found, wanted = (outputs.evaluate(form, batch, potential.graph(batch), species_N) for form in (model, potential.model))
    assert torch.equal(found.forces, wanted.forces)
    assert list(model._tables) == [(0, 2)]


def test_sets_of_species_share_functions_of_the_distance_alone() -> None:
    model = TabulatedMACE(Potential(zoo.checkpoint("mace-plain"), precision=TABULATED).model)
    assert model.tables((0, 2)).radial is model.tables((1,)).radial


def test_stands_in_for_the_stock_form_where_its_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dispatch.ON_CUDA, "tabulated_convolution", "triton")
    cuda, fp32, fp64 = torch.device("cuda"), zoo.potential("mace-plain", "fp32").model, zoo.potential("mace-plain", "fp64").model
    assert isinstance(evaluation_form(fp32, cuda), TabulatedMACE)
    assert evaluation_form(fp64, cuda) is fp64
    assert evaluation_form(fp32, torch.device("cpu")) is fp32
