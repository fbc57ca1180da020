"""Which frames form the next batch: shuffled anew every epoch, filled up to a budget of edges, resumable at any batch."""

from collections.abc import Sequence

import numpy as np


def fill(order: np.ndarray, num_edges_F: np.ndarray, max_edges: int) -> list[np.ndarray]:
    """The frames of ``order``, in that order, cut into batches of at most ``max_edges`` edges each."""
    if len(order) == 0:
        return []
    total = np.cumsum(num_edges_F[order], dtype=np.int64)
    largest = int(num_edges_F[order].max())
    if largest > max_edges:
        raise ValueError(f"The largest frame has {largest} edges, more than max_edges = {max_edges}: raise max_edges.")
    cuts = [0]
    while cuts[-1] < len(order):
        before = total[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(int(np.searchsorted(total, before + max_edges, side="right")))
    return [order[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


class BatchSampler:
    """An endless sequence of batches; every frame comes exactly once per epoch.

    The order of an epoch depends only on (seed, epoch), so ``epoch`` and ``position`` (batches already taken from it) are all
    there is to remember.
    """

    def __init__(self, frames: Sequence[int] | np.ndarray, num_edges_F: np.ndarray, max_edges: int, seed: int) -> None:
        self.frames, self.num_edges_F, self.max_edges, self.seed = np.asarray(frames), num_edges_F, max_edges, seed
        self.seek(0, 0)

    def seek(self, epoch: int, position: int) -> None:
        """Continue with batch ``position`` of ``epoch``."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.frames)
        self.batches = fill(order, self.num_edges_F, self.max_edges)
        self.epoch, self.position = epoch, position

    def next(self) -> np.ndarray:
        """Frame indices of the next batch."""
        if self.position == len(self.batches):
            self.seek(self.epoch + 1, 0)
        self.position += 1
        return self.batches[self.position - 1]
