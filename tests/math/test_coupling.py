"""Coupling tables against the definitions they come from."""

import itertools

import numpy as np
import pytest
import torch

from mosso.math.coupling import contraction_table, convolution_paths, symmetric_coupling, wigner_3j
from mosso.math.harmonics import spherical_harmonics
from mosso.math.irreps import Irreps, degree_slices


def random_rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def rotation_of_degree(rotation: np.ndarray, degree: int) -> np.ndarray:
    """D with Y(R x) = D Y(x), by least squares over many directions."""
    points = torch.as_tensor(np.random.default_rng(1).normal(size=(200, 3)))
    points = points / points.norm(dim=1, keepdim=True)
    part = degree_slices(tuple(range(degree + 1)))[degree]
    before = spherical_harmonics(points, degree)[:, part].numpy()
    after = spherical_harmonics(points @ torch.as_tensor(rotation).T, degree)[:, part].numpy()
    return np.linalg.lstsq(before, after, rcond=None)[0].T


@pytest.mark.parametrize("degrees", [t for t in itertools.product(range(5), repeat=3) if abs(t[0] - t[1]) <= t[2] <= t[0] + t[1]])
def test_wigner_3j_is_invariant(degrees: tuple[int, int, int]) -> None:
    coupling = wigner_3j(*degrees)
    assert np.linalg.norm(coupling) == pytest.approx(1.0, abs=1e-14)
    d1, d2, d3 = (rotation_of_degree(random_rotation(3), degree) for degree in degrees)
    np.testing.assert_allclose(np.einsum("ia,jb,kc,abc->ijk", d1, d2, d3, coupling), coupling, atol=1e-12)


def test_wigner_3j_known_values() -> None:
    np.testing.assert_allclose(wigner_3j(1, 1, 0)[:, :, 0], np.eye(3) / np.sqrt(3), atol=1e-15)
    levi_civita = np.zeros((3, 3, 3))
    for i, j, k in itertools.permutations(range(3)):
        levi_civita[i, j, k] = np.linalg.det(np.eye(3)[[i, j, k]])
    np.testing.assert_allclose(np.abs(wigner_3j(1, 1, 1)), np.abs(levi_civita) / np.sqrt(6), atol=1e-15)
    with pytest.raises(ValueError, match="do not couple"):
        wigner_3j(0, 1, 2)


def test_harmonics_up_to_degree_three_are_the_polynomials_of_the_field() -> None:
    points = np.random.default_rng(0).normal(size=(50, 3))
    x, y, z = (points / np.linalg.norm(points, axis=1, keepdims=True)).T
    s = np.sqrt
    want = [
        np.ones_like(x),
        *(s(3) * np.array([x, y, z])),
        *(s(5) * np.array([s(3) * x * z, s(3) * x * y, y**2 - (x**2 + z**2) / 2, s(3) * y * z, s(3) / 2 * (z**2 - x**2)])),
        *(
            s(7)
            * np.array(
                [
                    s(5 / 8) * x * (3 * z**2 - x**2),
                    s(15) * x * y * z,
                    s(3 / 8) * (4 * y**2 - x**2 - z**2) * x,
                    y * (2 * y**2 - 3 * x**2 - 3 * z**2) / 2,
                    s(3 / 8) * z * (4 * y**2 - x**2 - z**2),
                    s(15) / 2 * y * (z**2 - x**2),
                    s(5 / 8) * z * (z**2 - 3 * x**2),
                ]
            )
        ),
    ]
    got = spherical_harmonics(torch.as_tensor(np.stack([x, y, z], axis=1)), 3).numpy()
    np.testing.assert_allclose(got, np.stack(want, axis=1), atol=1e-13)


@pytest.mark.parametrize("degree", range(9))
def test_harmonics_norm(degree: int) -> None:
    points = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = spherical_harmonics(points / points.norm(dim=1, keepdim=True), degree)
    part = degree_slices(tuple(range(degree + 1)))[degree]
    np.testing.assert_allclose(values[:, part].square().sum(1), 2 * degree + 1, rtol=1e-12)


def test_convolution_paths_of_the_released_models() -> None:
    assert len(convolution_paths((0,), 3)) == 4
    assert len(convolution_paths((0, 1), 3)) == 10
    assert len(convolution_paths((0, 1, 2), 3)) == 17
    outputs = [path.l_out for path in convolution_paths((0, 1), 3)]
    assert outputs == sorted(outputs)


@pytest.mark.parametrize(("order", "degree", "rank"), [(1, 0, 1), (2, 0, 4), (3, 0, 8), (2, 1, 3), (3, 1, 12), (3, 2, 14)])
def test_symmetric_coupling(order: int, degree: int, rank: int) -> None:
    u = symmetric_coupling(3, degree, order)
    assert u.shape == (2 * degree + 1, *(16,) * order, rank)
    for axes in itertools.permutations(range(1, order + 1)):
        np.testing.assert_allclose(np.transpose(u, (0, *axes, order + 1)), u, atol=1e-12)
    flat = u.reshape(-1, rank)
    np.testing.assert_allclose(flat.T @ flat, (2 * degree + 1) * np.eye(rank), atol=1e-10)
    # Equivariance: U(D A, .., D A) = D_L U(A, .., A).
    rotation, rng = random_rotation(5), np.random.default_rng(2)
    features = rng.normal(size=16)
    turned = np.concatenate([rotation_of_degree(rotation, d) @ features[part] for d, part in enumerate(degree_slices((0, 1, 2, 3)))])

    def apply(a: np.ndarray) -> np.ndarray:
        value = u
        for _ in range(order):
            value = np.tensordot(value, a, axes=([1], [0]))
        return value

    np.testing.assert_allclose(apply(turned), rotation_of_degree(rotation, degree) @ apply(features), atol=1e-9)


def test_contraction_table_keeps_asymmetric_tensors_exact() -> None:
    rng = np.random.default_rng(0)
    u_tensors = [[rng.normal(size=(1, 4, 2)), rng.normal(size=(1, 4, 4, 3))], [rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4, 4, 3))]]
    weights = [rng.normal(size=(u.shape[-1],)) for tensors in u_tensors for u in tensors]
    table = contraction_table(u_tensors)
    a = rng.normal(size=4)
    monomials = np.append(a, 1.0)[table.factors].prod(axis=1)
    coefficients = np.zeros(len(table.rows))
    for weight, (terms, matrix) in zip(weights, table.mix, strict=True):
        np.add.at(coefficients, terms, matrix @ weight)
    got = np.zeros(table.num_rows)
    np.add.at(got, table.rows, coefficients * monomials)
    want = np.concatenate(
        [
            np.einsum("mik,i,k->m", one, a, weights[2 * i]) + np.einsum("mijk,i,j,k->m", two, a, a, weights[2 * i + 1])
            for i, (one, two) in enumerate(u_tensors)
        ]
    )
    np.testing.assert_allclose(got, want, rtol=1e-12)


def test_irreps() -> None:
    irreps = Irreps.parse("128x0e + 128x1o")
    assert str(irreps) == "128x0e+128x1o"
    assert irreps.channels_and_degrees() == (128, (0, 1))
    for bad in ("8x0e+4x1o", "8x0o", "8x1o+8x0e"):
        with pytest.raises(ValueError, match="not of the form"):
            Irreps.parse(bad).channels_and_degrees()
    with pytest.raises(ValueError, match="Cannot read irreps"):
        Irreps.parse("8x0q")
