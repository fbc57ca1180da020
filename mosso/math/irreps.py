"""Irreducible representations of O(3) as text and numbers: ``128x0e+128x1o``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

_TERM = re.compile(r"^(?:(\d+)x)?(\d+)([eo])$")


@dataclass(frozen=True)
class Irrep:
    """``mul`` copies of degree ``l`` with parity ``parity`` (+1 even, -1 odd)."""

    mul: int
    l: int
    parity: int

    @property
    def dim(self) -> int:
        return self.mul * (2 * self.l + 1)

    @property
    def natural(self) -> bool:
        """Parity (-1)^l, that of spherical harmonics."""
        return self.parity == (-1) ** self.l

    def __str__(self) -> str:
        return f"{self.mul}x{self.l}{'e' if self.parity > 0 else 'o'}"


@dataclass(frozen=True)
class Irreps:
    """A direct sum of irreducible representations, in the order written."""

    terms: tuple[Irrep, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``8x0e+8x1o``; blanks are ignored."""
        terms = []
        for part in text.replace(" ", "").split("+"):
            match = _TERM.match(part)
            if match is None:
                raise ValueError(f"Cannot read irreps {text!r}: write terms such as 128x0e joined by '+'.")
            terms.append(Irrep(int(match[1] or 1), int(match[2]), 1 if match[3] == "e" else -1))
        return cls(tuple(terms))

    def __str__(self) -> str:
        return "+".join(str(term) for term in self.terms)

    def channels_and_degrees(self) -> tuple[int, tuple[int, ...]]:
        """(C, degrees) of features in which every degree occurs once, with natural parity and the same C."""
        channels = {term.mul for term in self.terms}
        degrees = tuple(term.l for term in self.terms)
        if len(channels) != 1 or not all(term.natural for term in self.terms) or list(degrees) != sorted(set(degrees)):
            raise ValueError(f"Irreps {self} are not of the form CxLp with one C, ascending degrees and parity (-1)^l.")
        return channels.pop(), degrees


def num_components(degrees: tuple[int, ...]) -> int:
    """Components M of one channel that carries each degree once."""
    return sum(2 * degree + 1 for degree in degrees)


def degree_slices(degrees: Sequence[int]) -> list[slice]:
    """Where each degree lies along the component axis M."""
    slices, start = [], 0
    for degree in degrees:
        slices.append(slice(start, start + 2 * degree + 1))
        start += 2 * degree + 1
    return slices


def block_starts(degrees: Sequence[int], blocks: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """For each of ``degrees`` the first rows of the blocks that hold it, where blocks of the degrees ``blocks`` follow each other."""
    first_rows = [part.start for part in degree_slices(blocks)]
    return tuple(tuple(first for first, held in zip(first_rows, blocks, strict=True) if held == degree) for degree in degrees)
