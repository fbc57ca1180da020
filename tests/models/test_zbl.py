"""The repulsion of nuclei: its limits, its formula pair by pair, and its force."""

import pytest
import torch
from torch import Tensor

from mosso.graph.graph import Graph
from mosso.math.radial import COVALENT_RADII, polynomial_envelope
from mosso.models.zbl import ZBL

NUMBERS = (1, 6, 55)


def repulsion() -> ZBL:
    c = torch.tensor([0.1818, 0.5099, 0.2802, 0.02817], dtype=torch.float64)
    scalars = {"a_exp": torch.tensor(0.3), "a_prefactor": torch.tensor(0.4543), "p": torch.tensor(6)}
    return ZBL({"c": c, "covalent_radii": torch.tensor(COVALENT_RADII, dtype=torch.float64), **scalars}, NUMBERS).eval()


def pair(first: int, second: int, distance: float, padding: float | None = None) -> tuple[Tensor, Tensor, Graph]:
    """Two atoms (places in NUMBERS) and the edges between them, with an edge of padding where asked for."""
    graph = Graph.from_edges(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.zeros(2, 3), 2, 6.0)
    vectors_E3 = torch.tensor([[distance, 0.0, 0.0], [-distance, 0.0, 0.0]], dtype=torch.float64)
    return vectors_E3, torch.tensor([first, second]), graph


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (1, 2)])
def test_formula(first: int, second: int) -> None:
    r, (a, b) = 0.4, (NUMBERS[first], NUMBERS[second])
    x = r * (a**0.3 + b**0.3) / (0.4543 * 0.529)
    terms = zip((0.1818, 0.5099, 0.2802, 0.02817), (3.2, 0.9423, 0.4028, 0.2016), strict=True)
    phi = sum(c * torch.exp(torch.tensor(-e * x, dtype=torch.float64)) for c, e in terms)
    radius = float(COVALENT_RADII[a] + COVALENT_RADII[b])
    want = 14.3996 * a * b / r * phi * polynomial_envelope(torch.tensor(r, dtype=torch.float64), radius, 6)
    energy_N = repulsion()(*pair(first, second, r))
    torch.testing.assert_close(energy_N.sum(), want, rtol=1e-6, atol=0.0)  # a_exp and a_prefactor are float32 here, as in files
    assert energy_N[0] == energy_N[1]


def test_bare_nuclei_at_contact_and_nothing_at_the_radius_sum() -> None:
    assert float(repulsion()(*pair(1, 1, 1e-6)).sum()) == pytest.approx(14.3996 * 36 / 1e-6, rel=1e-3)
    assert not repulsion()(*pair(1, 1, 2 * COVALENT_RADII[6])).any()


def test_padding_adds_nothing_however_short() -> None:
    """Edges behind the last offset are no edges; their length would be within the radius sum of large atoms."""
    vectors_E3, species_N, graph = pair(2, 2, 3.0)
    padded = graph.padded(8)
    longer_E3 = torch.cat([vectors_E3, torch.full((6, 3), 0.5, dtype=torch.float64)])
    assert torch.equal(repulsion()(longer_E3, species_N, padded), repulsion()(vectors_E3, species_N, graph))


def test_gradient() -> None:
    vectors_E3, species_N, graph = pair(1, 2, 1.1)
    assert torch.autograd.gradcheck(lambda v: repulsion()(v, species_N, graph), vectors_E3.requires_grad_())
