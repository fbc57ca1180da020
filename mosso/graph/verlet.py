"""Verlet list: one search serves many steps, because it looks further than the cutoff by a skin."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mosso.data.structure import Batch
from mosso.graph.graph import Graph, edge_vectors
from mosso.graph.neighbors import Method, check_cutoff, edges_within, neighbor_list

# Share of skin/2 that atoms may move: a hair less than all of it, so that rounding cannot lose a pair.
SAFE_SHARE = 1 - 1e-6


def check_skin(skin: float) -> float:
    """The skin (A) as a float; a ValueError unless it is finite and not negative."""
    if not (math.isfinite(skin) and skin >= 0):
        raise ValueError(f"The skin is {skin}: give a length of zero or more in Angstrom.")
    return float(skin)


@dataclass(frozen=True, eq=False)
class _Built:
    """A list at cutoff + skin and the state it was built for."""

    graph: Graph
    positions_N3: Tensor
    numbers_N: Tensor
    cell_B33: Tensor
    pbc_B3: Tensor
    offsets: tuple[int, ...]


class VerletList:
    """Neighbour lists for a sequence of similar batches, such as the steps of molecular dynamics.

    ``update`` gives exactly what ``neighbor_list`` would, edges in the same order. Two atoms that each moved by at
    most skin/2 came closer by at most the skin, so every pair now within the cutoff is in the stored list.

    Args:
        cutoff: Angstrom.
        skin: Angstrom; 0 builds a new list at every update.
        method: as for ``neighbor_list``.

    Attributes:
        num_builds: how many searches were made so far.
    """

    def __init__(self, cutoff: float, skin: float, method: Method = "auto") -> None:
        self.cutoff, self.skin = check_cutoff(cutoff), check_skin(skin)
        self.method: Method = method
        self.num_builds = 0
        self._built: _Built | None = None

    @torch.no_grad()
    def update(self, batch: Batch) -> Graph:
        """The graph of ``batch`` with edges strictly shorter than the cutoff; see ``neighbor_list``."""
        if self._built is None or not self._still_valid(self._built, batch):
            self._built = None  # a search that fails must not leave an outdated list behind
            self._built = self._build(batch)
        graph = self._built.graph
        keep_E = edges_within(edge_vectors(batch, graph), graph.senders_E, graph.receivers_E, batch, self.cutoff)
        return replace(graph.select(keep_E), cutoff=self.cutoff)

    def _build(self, batch: Batch) -> _Built:
        graph = neighbor_list(batch, self.cutoff + self.skin, self.method)
        self.num_builds += 1
        # copies: an integrator may move the atoms of the batch in place
        return _Built(
            graph=graph,
            positions_N3=batch.positions_N3.detach().clone(),
            numbers_N=batch.numbers_N.clone(),
            cell_B33=batch.cell_B33.detach().clone(),
            pbc_B3=batch.pbc_B3.clone(),
            offsets=batch.offsets,
        )

    def _still_valid(self, built: _Built, batch: Batch) -> bool:
        if built.offsets != batch.offsets or built.positions_N3.device != batch.positions_N3.device:
            return False
        for old, new in ((built.numbers_N, batch.numbers_N), (built.pbc_B3, batch.pbc_B3), (built.cell_B33, batch.cell_B33)):
            if not torch.equal(old, new):
                return False
        if self.skin == 0.0:
            return False
        moved_N = torch.linalg.vector_norm(batch.positions_N3 - built.positions_N3, dim=1)
        # written so that a position that is not finite means "not valid": the new search then names it
        return bool((moved_N < SAFE_SHARE * 0.5 * self.skin).all())
