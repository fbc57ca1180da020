"""Kernels are compiled side by side before the first evaluation, all of them."""

import gc

import pytest
import torch
from models.zoo import SPECS, potential
from systems import water_box

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("name", SPECS)
def test_no_launch_waits_for_a_compiler(name: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import _async_compile
    from triton.runtime.jit import JITFunction

    compiled = {"together": 0, "alone": 0}
    compile_one = JITFunction._do_compile

    def counted(self: JITFunction, *arguments: object, **options: object) -> object:
        compiled["alone" if _async_compile.active_mode.get() is None else "together"] += 1
        return compile_one(self, *arguments, **options)

    structure = water_box(2, seed=3)
    exact = potential(name, precision)(structure)
    for known in [thing for thing in gc.get_objects() if issubclass(type(thing), JITFunction)]:
        known.device_caches.clear()
    monkeypatch.setattr(JITFunction, "_do_compile", counted)
    found = potential(name, precision, device="cuda")(structure)
    assert compiled["together"] > 10 and compiled["alone"] == 0
    torch.testing.assert_close(found.forces.cpu(), exact.forces, rtol=0, atol=1e-5 * float(exact.forces.abs().max()))
