"""Clebsch-Gordan coupling in the real basis, and the tables made from it.

Real spherical harmonics of degree l are ordered m = -l..l with y as the polar axis, so that degree 1 is (x, y, z).
"""

import itertools
from dataclasses import dataclass, field
from functools import cache
from math import factorial, sqrt

import numpy as np

from mosso.math.horner import horner
from mosso.math.irreps import degree_slices, num_components


def _clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j3: int, m3: int) -> float:
    """<j1 m1 j2 m2 | j3 m3> by Racah's formula (Edmonds, Angular Momentum in Quantum Mechanics, 3.6.11)."""
    if m1 + m2 != m3:
        return 0.0
    f = factorial
    norm = (2 * j3 + 1) * f(j3 + j1 - j2) * f(j3 - j1 + j2) * f(j1 + j2 - j3) / f(j1 + j2 + j3 + 1)
    norm *= f(j3 + m3) * f(j3 - m3) * f(j1 - m1) * f(j1 + m1) * f(j2 - m2) * f(j2 + m2)
    total = 0.0
    for k in range(j1 + j2 - j3 + 1):
        terms = (k, j1 + j2 - j3 - k, j1 - m1 - k, j2 + m2 - k, j3 - j2 + m1 + k, j3 - j1 - m2 + k)
        if min(terms) >= 0:
            total += (-1) ** k / np.prod([float(f(t)) for t in terms])
    return sqrt(norm) * float(total)


def _complex_from_real(degree: int) -> np.ndarray:
    """Complex spherical harmonics in terms of real ones, with the phase (-i)^l that makes real coupling real."""
    q = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=complex)
    for m in range(-degree, 0):
        q[degree + m, degree - m] = 1 / sqrt(2)
        q[degree + m, degree + m] = -1j / sqrt(2)
    q[degree, degree] = 1.0
    for m in range(1, degree + 1):
        q[degree + m, degree + m] = (-1) ** m / sqrt(2)
        q[degree + m, degree - m] = 1j * (-1) ** m / sqrt(2)
    return (-1j) ** degree * q


@cache
def wigner_3j(l1: int, l2: int, l3: int) -> np.ndarray:
    """(2 l1 + 1, 2 l2 + 1, 2 l3 + 1) float64, the invariant coupling of three real degrees, Frobenius norm 1.

    For l1 + l2 + l3 even the sign agrees with e3nn; for odd sums conventions differ between releases of e3nn,
    so a converted model never regenerates tables that go through them.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"Degrees {l1}, {l2}, {l3} do not couple.")
    complex_basis = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1, m2 in itertools.product(range(-l1, l1 + 1), range(-l2, l2 + 1)):
        if abs(m1 + m2) <= l3:
            complex_basis[l1 + m1, l2 + m2, l3 + m1 + m2] = _clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
    q1, q2, q3 = (_complex_from_real(degree) for degree in (l1, l2, l3))
    real_basis = np.einsum("ai,bj,ck,abc->ijk", q1, q2, q3.conj(), complex_basis)
    assert np.abs(real_basis.imag).max() < 1e-12
    coupling = real_basis.real / np.linalg.norm(real_basis.real)
    coupling[np.abs(coupling) < 1e-14] = 0.0
    coupling.flags.writeable = False
    return coupling


@dataclass(frozen=True)
class CouplingPath:
    """One allowed product sender degree x edge degree -> receiver degree.

    Attributes:
        l_in, l_edge, l_out: the degrees.
        factor: what wigner_3j is multiplied by; sign conventions of other packages go here.
        text: the path as ``l_in,l_edge,l_out,factor``, for ops whose arguments are plain; made once, because
            torch.compile takes a string for a constant but not always a number.
    """

    l_in: int
    l_edge: int
    l_out: int
    factor: float
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", f"{self.l_in},{self.l_edge},{self.l_out},{self.factor!r}")

    @staticmethod
    def parse(text: str) -> "CouplingPath":
        l_in, l_edge, l_out, factor = text.split(",")
        return CouplingPath(int(l_in), int(l_edge), int(l_out), float(factor))

    @property
    def coupling(self) -> np.ndarray:
        """(2 l_in + 1, 2 l_edge + 1, 2 l_out + 1) float64."""
        return self.factor * wigner_3j(self.l_in, self.l_edge, self.l_out)


@cache
def convolution_paths(degrees_in: tuple[int, ...], max_ell: int) -> tuple[CouplingPath, ...]:
    """Paths of the edge convolution in the order of MACE's radial weights: by output degree, then input, then edge.

    Natural parity everywhere, so a path exists where the triangle rule holds and the sum of degrees is even.
    Batatia et al., MACE (2022), equation 8.
    """
    found = [
        CouplingPath(l_in, l_edge, l_out, sqrt(2 * l_out + 1))
        for l_in in degrees_in
        for l_edge in range(max_ell + 1)
        for l_out in range(abs(l_in - l_edge), min(l_in + l_edge, max_ell) + 1)
        if (l_in + l_edge + l_out) % 2 == 0
    ]
    return tuple(sorted(found, key=lambda path: path.l_out))


@cache
def symmetric_coupling(max_ell: int, degree_out: int, order: int) -> np.ndarray:
    """(2 L + 1, M, .., M, K): an orthonormal basis of the equivariant, permutation-symmetric maps A^order -> L.

    M = (max_ell + 1)^2 components of natural parity. K is the number of independent maps, so nothing in it is
    redundant. Batatia et al., MACE (2022), equation 10 and appendix A.
    """
    degrees = tuple(range(max_ell + 1))
    num_m, dim_out = num_components(degrees), 2 * degree_out + 1
    chains = _coupling_chains(degrees, order, degree_out)
    tensors = []
    for tensor in chains:
        permuted = [np.transpose(tensor, (*p, order)) for p in itertools.permutations(range(order))]
        tensors.append(np.moveaxis(np.sum(permuted, axis=0), order, 0).ravel())
    if not tensors:
        return np.zeros((dim_out, *(num_m,) * order, 0))
    left, singular, _ = np.linalg.svd(np.stack(tensors, axis=1), full_matrices=False)
    basis = left[:, singular > 1e-10 * singular[0]] * sqrt(dim_out)
    basis[np.abs(basis) < 1e-13] = 0.0
    return basis.reshape(dim_out, *(num_m,) * order, -1)


def _coupling_chains(degrees: tuple[int, ...], order: int, degree_out: int) -> list[np.ndarray]:
    """Every left-to-right coupling of ``order`` natural-parity degrees to ``degree_out``, each as (M, .., M, 2L + 1)."""
    num_m, where = num_components(degrees), degree_slices(degrees)
    # Each entry: (degree reached, parity reached, tensor); the first factor is each degree itself.
    chains: list[tuple[int, int, np.ndarray]] = []
    for degree, part in zip(degrees, where, strict=True):
        identity = np.zeros((num_m, 2 * degree + 1))
        identity[part] = np.eye(2 * degree + 1)
        chains.append((degree, (-1) ** degree, identity))
    for _ in range(order - 1):
        longer = []
        for (left, parity, tensor), (degree, part) in itertools.product(chains, zip(degrees, where, strict=True)):
            for reached in range(abs(left - degree), left + degree + 1):
                step = np.tensordot(tensor, wigner_3j(left, degree, reached), axes=([-1], [0]))
                full = np.zeros((*tensor.shape[:-1], num_m, 2 * reached + 1))
                full[..., part, :] = step
                longer.append((reached, parity * (-1) ** degree, full))
        chains = longer
    return [tensor for reached, parity, tensor in chains if reached == degree_out and parity == (-1) ** degree_out]


@dataclass(frozen=True, eq=False)
class ContractionTable:
    """The symmetric contraction as a sparse polynomial: out[m] = sum over terms of coefficient * monomial of A.

    Made from dense U tensors, whose permutations of one monomial are summed: exact for any U, symmetric or not.

    Attributes:
        factors: (T, max order) component indices of A that each term multiplies, ascending; a term of lower order
            is filled up with the index M, one past the last component, which stands for the constant one.
        rows: (T,) output component of each term, ascending; within a row, terms are in the order of its Horner form.
        mix: per (degree, order) in the order of the U tensors, the terms it feeds (T',) and its (T', K) matrix,
            so that coefficients = mix @ weights.
        num_rows: components of the output.
        num_components: M, components of A.
        text: the polynomial in writing, ``M rows;row:i.j.k;..`` with one entry per term. An op takes no other constant
            that is hashed fast, compared by content and stored in an exported program.
    """

    factors: np.ndarray
    rows: np.ndarray
    mix: tuple[tuple[np.ndarray, np.ndarray], ...]
    num_rows: int
    num_components: int
    text: str


def _nested(terms: np.ndarray, one: int) -> list[int]:
    """Order of terms (row, factors ..) in which the Horner form of one row after the other meets them."""
    monomials: dict[int, dict[int, tuple[int, ...]]] = {}
    for t, (row, *factors) in enumerate(terms.tolist()):
        monomials.setdefault(row, {})[t] = tuple(i for i in factors if i < one)
    return [t for row in sorted(monomials) for t in horner(monomials[row]).terms()]


def contraction_table(u_tensors: list[list[np.ndarray]]) -> ContractionTable:
    """Table for ``u_tensors[degree][nu - 1]`` of shape (2L + 1, M, .., M, K); degrees are stacked along the output."""
    max_order = max(len(tensors) for tensors in u_tensors)
    one = u_tensors[0][0].shape[1]
    keys, matrices = [], []  # per U tensor: (row, factors) of its terms, and their K columns
    start = 0
    for tensors in u_tensors:
        for order, u in enumerate(tensors, start=1):
            where = np.argwhere((u != 0).any(axis=-1))
            filled = np.full((len(where), max_order - order), one)
            key = np.concatenate([where[:, :1] + start, np.sort(where[:, 1:], axis=1), filled], axis=1)
            unique, inverse = np.unique(key, axis=0, return_inverse=True)
            matrix = np.zeros((len(unique), u.shape[-1]))
            np.add.at(matrix, inverse.ravel(), u[tuple(where.T)])
            keys.append(unique)
            matrices.append(matrix)
        start += tensors[0].shape[0]
    # Terms of different order never coincide, so each one belongs to exactly one U tensor.
    terms, number = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
    nested = _nested(terms, one)
    terms, number = terms[nested], np.argsort(nested)[number.ravel()]
    numbers = np.split(number, np.cumsum([len(key) for key in keys])[:-1])
    written = [f"{row}:{'.'.join(str(i) for i in factors if i < one)}" for row, *factors in terms.tolist()]
    text = ";".join([f"{one} {start}", *written])
    return ContractionTable(terms[:, 1:], terms[:, 0], tuple(zip(numbers, matrices, strict=True)), start, one, text)
