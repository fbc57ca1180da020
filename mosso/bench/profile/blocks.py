"""Names for the parts of a model while it is profiled: the parts themselves know nothing of it.

``block_ranges`` puts ranges of the profiler around the methods and ops listed here, and takes them off again.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.profiler import record_function

from mosso import kernels
from mosso.bench.profile.trace import OP_PREFIX, PREFIX
from mosso.engine.potential import Potential
from mosso.models.mace import MACE
from mosso.models.tabulated_mace import TabulatedMACE

EMBEDDING, INTERACTION, PRODUCT, READOUT, FORCES, LIST = "embedding", "interaction", "product", "readout", "forces", "neighbour list"
BINDING = "binding"  # species of the atoms and the order by species, made anew in calls that are not recorded

# Methods of a MACE and of its form with tables, and of their layers.
MACE_PARTS = {"embedding": EMBEDDING, "edge_features": EMBEDDING, "repulsion": EMBEDDING, "total_energy": READOUT}
TABULATED_PARTS = {"_first_layer": INTERACTION, "_first_product": PRODUCT}
LAYER_PARTS = {
    "interactions": (INTERACTION, ("forward", "up", "mix", "messages", "kept")),
    "products": (PRODUCT, ("forward",)),
    "readouts": (READOUT, ("forward",)),
}
# Ops of mosso.kernels; the block of those that a model calls between its layers, the others are in the block that calls them.
OPS = {
    "edge_vectors": EMBEDDING,
    "edge_features": EMBEDDING,
    "radial_moments": INTERACTION,
    "visiting_order": INTERACTION,
    "tabulated_convolution": INTERACTION,
    "edge_forces": FORCES,
    "sum_segments": FORCES,
    "stress": FORCES,
    **dict.fromkeys(("edge_convolution", "path_linear", "radial_mlp", "readout", "species_path_linear", "symmetric_contraction")),
}


@contextmanager
def block_ranges(potential: Potential) -> Iterator[None]:
    """Inside, the blocks of a potential and its ops are ranges of the profiler. Of an architecture not listed here only ops, edges and
    forces are."""
    wrapped: list[tuple[Any, str, Any]] = []
    try:
        for owner, name, label in _parts(potential):
            wrapped.append((owner, name, vars(owner).get(name)))
            setattr(owner, name, _ranged(getattr(owner, name), label))
        yield
    finally:
        for owner, name, before in reversed(wrapped):
            if before is None:
                delattr(owner, name)  # the method of the class shows again
            else:
                setattr(owner, name, before)


def _parts(potential: Potential) -> Iterator[tuple[Any, str, str]]:
    """Owner, attribute and range of everything that is called."""
    yield potential, "bind", PREFIX + BINDING
    for name, block in OPS.items():
        yield kernels, name, OP_PREFIX + name
        if block is not None:
            yield kernels, name, PREFIX + block
    if isinstance(potential.evaluator, TabulatedMACE):
        yield from ((potential.evaluator, name, PREFIX + block) for name, block in TABULATED_PARTS.items())
    if isinstance(potential.model, MACE):
        yield from ((potential.model, name, PREFIX + block) for name, block in MACE_PARTS.items())
        for layers, (block, names) in LAYER_PARTS.items():
            for count, layer in enumerate(getattr(potential.model, layers)):
                yield from ((layer, name, f"{PREFIX}{block} {count}") for name in names)


def _ranged(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with record_function(name):
            return function(*args, **kwargs)

    return call
