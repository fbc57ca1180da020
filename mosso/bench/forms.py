"""The same potential in one form or the other, whatever the default of its device is."""

import copy

from mosso.engine.potential import Potential
from mosso.models.mace import MACE
from mosso.models.tabulated_mace import TabulatedMACE


def stock(potential: Potential) -> Potential:
    """Without the form made for simulations."""
    plain = copy.copy(potential)
    plain.evaluator = potential.model
    return plain


def tabulated(potential: Potential) -> Potential:
    """In the form made for simulations: MACE with its radial networks as tables."""
    assert isinstance(potential.model, MACE), "MACE alone has it"
    form = copy.copy(potential)
    form.evaluator = TabulatedMACE(potential.model)
    return form
