"""Sizes of convolutions over edges that hurt, and ways to cut their kernels: the same for both ops that convolve."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """Degrees of the features of atoms, highest degree of the harmonics, and numbers; ``same`` puts every edge on atom 0 of many."""

    degrees_in: tuple[int, ...]
    max_ell: int
    nodes: int
    edges: int
    channels: int
    padding: int = 0
    same: bool = False


SIZES = {
    "two degrees": Sizes((0, 1), 2, 3, 7, 5),
    "scalars, max_ell 3": Sizes((0,), 3, 3, 6, 4),
    "three degrees": Sizes((0, 1, 2), 2, 2, 3, 3),
    "degree one alone": Sizes((1,), 1, 3, 5, 2),
    "two blocks of channels, the second odd": Sizes((0, 1), 1, 2, 4, 33),
    "more than one block in the forward pass": Sizes((0,), 1, 2, 3, 131),
    "no edges": Sizes((0, 1), 1, 3, 0, 2),
    "no atoms": Sizes((0, 1), 1, 0, 0, 2),
    "one atom, its own neighbour": Sizes((0, 1), 1, 1, 4, 1),
    "every edge on one atom": Sizes((0, 1), 1, 4, 19, 2, same=True),
    "padding": Sizes((0, 1), 1, 3, 5, 3, padding=4),
    "padding only": Sizes((0, 1), 1, 2, 0, 3, padding=3),
}

# Edges per step, most sums in registers, whether loads run one step ahead.
CUTS = [(2, 128, False), (1, 0, False), (2, 30, True), (3, 0, False), (1, 128, True)]
