"""The tabulated form of MACE against the stock one."""

import weakref
from dataclasses import replace

import pytest
import systems
import torch
from models import zoo

from mosso import Precision, Structure
from mosso.engine.potential import Potential
from mosso.models import evaluation_form, outputs, tabulated_mace
from mosso.models.base import species_index
from mosso.models.outputs import Output
from mosso.models.tabulated_mace import TabulatedMACE
from mosso.precision import POLICIES

TABULATED = replace(Precision.named("fp64"), table=torch.float64, table_error=1e-7)
STRUCTURES = [systems.water_box(2), systems.water_molecule(), systems.dimer(1.3, (6, 8)), systems.dimer(9.0, (1, 1))]


def evaluate(potential: Potential, tabulated: bool) -> Output:
    batch = potential.batch(STRUCTURES)
    model = TabulatedMACE(potential.model) if tabulated else potential.model
    species_N = species_index(batch.numbers_N, potential.species)
    head = potential.heads.index(potential.head)
    return outputs.evaluate(model, batch, potential.graph(batch), species_N, head=head, forces=True, stress=True)


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("moments", [16, 1], ids=["moments", "convolution"])
@pytest.mark.parametrize("name", list(zoo.SPECS))
def test_agrees_with_the_stock_form_within_the_error_of_the_tables(name: str, moments: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there are so many species that the first layer is a convolution."""
    monkeypatch.setattr(tabulated_mace, "MAX_MOMENTS", moments)
    potential = Potential(zoo.checkpoint(name), precision=TABULATED, head=zoo.SPECS[name].heads[-1])
    found, wanted = evaluate(potential, True), evaluate(potential, False)
    torch.testing.assert_close(found.energy, wanted.energy, rtol=1e-9, atol=1e-9)
    assert difference(found.forces, wanted.forces) < 2e-7
    solid = slice(0, 1)  # the molecules have no volume
    assert difference(found.stress[solid], wanted.stress[solid]) < 2e-7


@pytest.mark.parametrize("moments", [16, 1], ids=["moments", "convolution"])
@pytest.mark.parametrize("name", ["mace-residual-first", "mace-density-agnesi-zbl"])
def test_float32_is_faithful(name: str, moments: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tabulated_mace, "MAX_MOMENTS", moments)
    found = evaluate(zoo.potential(name, "fp32"), True)
    wanted = evaluate(zoo.potential(name, "fp64"), False)
    assert difference(found.forces, wanted.forces) < 1e-6
    assert difference(found.energy, wanted.energy) < 1e-7


@pytest.mark.parametrize("name", ["mace-residual-first", "mace-density-agnesi-zbl"])
def test_values_are_of_coarser_tables_where_these_serve(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block for all pairs of species, and one for each; with an error that nothing meets the tables are the same."""
    potential = Potential(zoo.checkpoint(name), precision=TABULATED, head=zoo.SPECS[name].heads[-1])
    wanted = evaluate(potential, False)
    results = []
    for share, ratio in ((0.5, 4), (1e-3, 2), (0.0, 1)):
        monkeypatch.setattr(tabulated_mace, "VALUES_SHARE", share)
        radial = TabulatedMACE(potential.model).tables((0, 1)).radial
        assert radial.ratio == ratio
        for fine, coarse in zip(radial.weights_RPCQ, radial.coarse_RPCQ, strict=True):
            assert fine.shape[0] == ratio * coarse.shape[0] and (fine is coarse) == (ratio == 1)
        results.append(evaluate(potential, True))
    for result in results:
        torch.testing.assert_close(result.energy, wanted.energy, rtol=1e-9, atol=1e-9)
        assert difference(result.forces, wanted.forces) < 2e-7
    assert not torch.equal(results[0].energy, results[2].energy)


@pytest.mark.parametrize(("name", "bound"), [("tf32", 1e-4), ("fp16", 1e-3), ("bf16", 1e-2)])
def test_rounded_tables_cost_what_their_format_says(name: str, bound: float) -> None:
    """On the CPU tables are all that is rounded; dense products are for the GPU to round."""
    model = "mace-residual-first"
    found = evaluate(Potential(zoo.checkpoint(model), precision=POLICIES[name], head="Default"), True)
    error = difference(found.forces, evaluate(zoo.potential(model, "fp64"), False).forces)
    assert 1e-7 < error < bound


@pytest.mark.parametrize("structures", [[], [systems.dimer(9.0, (1, 1))]], ids=["no atoms", "no edges"])
def test_nothing_to_sum(structures: list[Structure]) -> None:
    potential = zoo.potential("mace-residual-first", "fp32")
    batch = potential.batch(structures)
    wanted = potential.evaluate(batch, potential.graph(batch))
    potential.evaluator = TabulatedMACE(potential.model)
    found = potential.evaluate(batch, potential.graph(batch))
    torch.testing.assert_close(found.energy, wanted.energy, rtol=1e-7, atol=1e-7)
    assert not found.forces.any()


def test_what_tables_cannot_do_is_left_to_the_stock_form(monkeypatch: pytest.MonkeyPatch) -> None:
    potential = Potential(zoo.checkpoint("mace-plain"), precision=replace(TABULATED, table_error=1e-15), head="Default")
    form = TabulatedMACE(potential.model)
    with pytest.warns(UserWarning, match="cannot be tabulated within 1e-15, as fp64 asks: using the radial networks themselves"):
        assert form.for_species((0, 2)) is potential.model


@pytest.mark.parametrize("scale", [1e6, 1.0])
def test_weights_beyond_what_their_format_holds_are_left_to_the_stock_form(scale: float) -> None:
    """Numbers of float16 end at 65,504; none of them are infinite where they fit."""
    potential = Potential(zoo.checkpoint("mace-plain"), precision=POLICIES["fp16"], head="Default")
    last = len(potential.model.spec.radial_mlp)
    getattr(potential.model.interactions[1].conv_tp_weights, f"layer{last}").weight.data *= scale
    form = TabulatedMACE(potential.model)
    if scale == 1.0:
        assert form.tables((0, 2)).radial.coarse_RPCQ[0].dtype == torch.float16
        return
    with pytest.warns(UserWarning, match="cannot be tabulated within 0.0005, as fp16 asks"):
        assert form.for_species((0, 2)) is potential.model


def test_many_species_make_the_first_layer_a_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mixture where a distance transform gives pairs tables of their own, the stock form does all."""
    for name, few in (("mace-density-agnesi-zbl", 2), ("mace-plain", 2), ("mace-degree-3-three-layers", 1)):
        potential = Potential(zoo.checkpoint(name), precision=TABULATED, head=zoo.SPECS[name].heads[-1])
        monkeypatch.setattr(tabulated_mace, "MAX_MOMENTS", few)
        form = TabulatedMACE(potential.model)
        assert form.tables((0, 1, 2)).first_mix == () and form.tables((0,)).first_mix
    monkeypatch.setattr(tabulated_mace, "MAX_KINDS", 3)
    form = TabulatedMACE(zoo.potential("mace-density-agnesi-zbl", "fp32").model)
    assert form.for_species((0, 1, 2)) is form.stock and form.for_species((0, 1)) is not form.stock


def test_sums_over_edges_go_as_soon_as_they_are_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing takes more memory, and the gradient does not ask for them."""
    sums, alive, convolve = [], [], tabulated_mace.kernels.tabulated_convolution

    def noted(*arguments: object, **options: object) -> torch.Tensor:
        result = convolve(*arguments, **options)
        sums.append(weakref.ref(result))
        return result

    monkeypatch.setattr(tabulated_mace.kernels, "tabulated_convolution", noted)
    potential = zoo.potential("mace-residual-first", "fp32")
    potential.model.products[1].register_forward_pre_hook(lambda *_: alive.append(sums[-1]() is not None))
    evaluate(potential, True)
    assert alive == [False]


def test_tables_live_as_long_as_an_evaluator_needs_them() -> None:
    form = TabulatedMACE(zoo.potential("mace-density-agnesi-zbl", "fp32").model)
    held = form.for_species((0, 1))
    made = weakref.ref(form.tables((0, 1)))
    assert form.for_species((0, 1)).args[0] is made()
    others = [(0,), (1,), (2,), (0, 2), (1, 2)]
    for present in others:
        form.for_species(present)
    assert form.tables((0, 1)) is made(), "somebody holds it"
    del held
    for present in others:
        form.for_species(present)
    assert made() is None


def test_stands_in_for_the_stock_form_where_its_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mosso.kernels.preferred", lambda op, device: "triton" if device.type == "cuda" else "reference")
    cuda, fp32, fp64 = torch.device("cuda"), zoo.potential("mace-plain", "fp32").model, zoo.potential("mace-plain", "fp64").model
    assert isinstance(evaluation_form(fp32, cuda), TabulatedMACE)
    assert evaluation_form(fp64, cuda) is fp64
    assert evaluation_form(fp32, torch.device("cpu")) is fp32
