"""The implementations that are compared: a name, and how to get it from a potential."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from mosso.data.structure import Batch
from mosso.engine.capture import CapturedPotential
from mosso.engine.potential import Potential
from mosso.graph.graph import Graph
from mosso.kernels import dispatch
from mosso.models.outputs import Output
from mosso.models.tabulated_mace import TabulatedMACE


class Runner:
    """A potential, captured or not, evaluated with the ops of one implementation; ``auto`` is what users get."""

    def __init__(self, potential: Potential | CapturedPotential, ops: str) -> None:
        self.potential, self.ops = potential, ops

    @property
    def device(self) -> torch.device:
        return self.potential.device

    @property
    def cutoff(self) -> float:
        """Angstrom."""
        return self.potential.cutoff

    def batch(self, structures: Iterable[Any]) -> Batch:
        return self.potential.batch(structures)

    def graph(self, batch: Batch) -> Graph:
        return self.potential.graph(batch)

    def evaluate(self, batch: Batch, graph: Graph, *, stress: bool = False) -> Output:
        """As ``Potential.evaluate``."""
        with _ops(self.ops):
            return self.potential.evaluate(batch, graph, stress=stress)


@contextmanager
def _ops(name: str) -> Iterator[None]:
    with nullcontext() if name == "auto" else dispatch.prefer(name):
        yield


def stock(potential: Potential) -> Potential:
    """The same potential without the form made for simulations."""
    plain = copy.copy(potential)
    plain.evaluator = potential.model
    return plain


def tabulated(potential: Potential) -> Potential:
    """The same potential in the form made for simulations, whatever the default is."""
    form = copy.copy(potential)
    form.evaluator = TabulatedMACE(potential.model)  # type: ignore[arg-type]
    return form


def _triton(potential: Potential) -> Potential:
    example = torch.empty(0, dtype=potential.precision.compute, device=potential.device)
    if reason := dispatch.triton_obstacle(example):
        raise ValueError(f"The triton ops cannot run here: {reason}.")
    return potential


VARIANTS: dict[str, Callable[[Potential], Runner]] = {
    "stock reference": lambda p: Runner(stock(p), "reference"),
    "stock triton": lambda p: Runner(stock(_triton(p)), "triton"),
    "stock triton captured": lambda p: Runner(CapturedPotential(stock(_triton(p))), "triton"),
    "tabulated": lambda p: Runner(tabulated(_triton(p)), "triton"),
    "tabulated captured": lambda p: Runner(CapturedPotential(tabulated(_triton(p))), "triton"),
    "auto": lambda p: Runner(p, "auto"),
}
