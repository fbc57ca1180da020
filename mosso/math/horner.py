"""Nested Horner form of a sparse polynomial: the order in which a polynomial of many variables is cheap to evaluate."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Horner:
    """coefficient[term] + sum over factors of x[component] * inner; no first summand where ``term`` is None.

    Attributes:
        term: which coefficient stands here.
        factors: (component, inner) pairs.
    """

    term: int | None
    factors: tuple[tuple[int, "Horner"], ...]

    def terms(self) -> Iterator[int]:
        """Coefficients in the order in which a depth-first evaluation meets them."""
        if self.term is not None:
            yield self.term
        for _, inner in self.factors:
            yield from inner.terms()

    def num_products(self) -> int:
        """Multiply-adds of one evaluation: one per pair of a component and what it multiplies."""
        return sum(1 + inner.num_products() for _, inner in self.factors)

    def keep(self, terms: frozenset[int]) -> "Horner":
        """The polynomial with only these coefficients, without branches that hold none of them."""
        kept = [(component, inner.keep(terms)) for component, inner in self.factors]
        return Horner(
            self.term if self.term in terms else None,
            tuple((component, inner) for component, inner in kept if inner.factors or inner.term is not None),
        )


def horner(monomials: Mapping[int, tuple[int, ...]]) -> Horner:
    """``monomials[term]`` are the components that a term multiplies, repeated for powers.

    The component found in most terms is pulled out first, of these terms and then of what is left. Finding the fewest
    multiplications is hard (Ceberio and Kreinovich, 2004); this greedy choice is their first heuristic.
    """
    constant = [term for term, components in monomials.items() if not components]
    assert len(constant) <= 1, "two terms of one polynomial have the same monomial"
    left = {term: components for term, components in monomials.items() if components}
    factors = []
    while left:
        counts = Counter(component for components in left.values() for component in set(components))
        best = min(counts, key=lambda component: (-counts[component], component))
        inner = {term: _without(components, best) for term, components in left.items() if best in components}
        factors.append((best, horner(inner)))
        left = {term: components for term, components in left.items() if best not in components}
    return Horner(constant[0] if constant else None, tuple(factors))


def _without(components: tuple[int, ...], component: int) -> tuple[int, ...]:
    """One occurrence less."""
    at = components.index(component)
    return components[:at] + components[at + 1 :]
