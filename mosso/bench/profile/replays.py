"""Which part of a model the kernels of a replayed CUDA graph belong to.

The host launches a graph at once, so its kernels carry no ranges. But a graph is recorded from the very calls that a plain evaluation
makes, and runs their kernels in the same order: the two sequences of names are aligned, and a kernel takes the place of its counterpart.
One without a counterpart (another matrix product chosen for padded shapes, say) takes the place that its gap leaves open, where there is
only one; otherwise it is ``other``.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

from mosso.bench.profile.trace import Place

Named = tuple[str, Place]


def aligned(plain: Sequence[Named], replayed: Sequence[str]) -> list[Place]:
    """The place of each replayed kernel.

    Args:
        plain: kernels of a plain call by start, with their places.
        replayed: names of the kernels of a replay by start.
    """
    places = [Place()] * len(replayed)
    matcher = SequenceMatcher(None, [name for name, _ in plain], list(replayed), autojunk=False)
    for tag, first, last, start, end in matcher.get_opcodes():
        if tag == "equal":
            places[start:end] = [place for _, place in plain[first:last]]
        elif start < end:
            gap = plain[first:last] or plain[max(first - 1, 0) : first + 1]
            places[start:end] = [_only({place for _, place in gap})] * (end - start)
    return places


def _only(places: set[Place]) -> Place:
    """What all of them say, of the block and of the op."""
    blocks, ops = {place.block for place in places}, {place.op for place in places}
    return Place(*(names.pop() if len(names) == 1 else Place().block for names in (blocks, ops)))
