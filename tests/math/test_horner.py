"""The nested form of a polynomial."""

from math import prod

from mosso.math.horner import Horner, horner


def test_horner_form_multiplies_less_and_loses_nothing() -> None:
    monomials = {0: (), 1: (0, 0, 1), 2: (0, 1), 3: (2,), 4: (0, 2), 5: (1, 1, 1)}
    tree = horner(monomials)
    assert sorted(tree.terms()) == sorted(monomials)
    assert tree.num_products() < sum(len(components) for components in monomials.values())
    x, coefficients = [2.0, 3.0, 5.0], [7.0, 11.0, 13.0, 17.0, 19.0, 23.0]

    def value(node: Horner) -> float:
        constant = 0.0 if node.term is None else coefficients[node.term]
        return constant + sum(x[i] * value(inner) for i, inner in node.factors)

    want = sum(coefficients[t] * prod(x[i] for i in components) for t, components in monomials.items())
    assert value(tree) == want
    assert list(tree.keep(frozenset({2, 5})).terms()) in ([2, 5], [5, 2])
