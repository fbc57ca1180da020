import pytest
import torch

from mosso.dynamics.noise import BAROSTAT, THERMOSTAT, gaussian
from mosso.kernels.reference.noise import philox

# Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
KNOWN = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_known_answers(counter, key, expected):
    result = philox(torch.tensor(counter).unsqueeze(1), torch.tensor(key).unsqueeze(1))
    assert result.squeeze(1).tolist() == expected


def draw(num, seed=3, step=5, stream=THERMOSTAT):
    return gaussian(torch.full((num,), seed), torch.arange(num), torch.tensor(step), stream)


def test_moments_are_those_of_a_normal():
    x = draw(200_000).reshape(-1)
    assert abs(x.mean()) < 4 / len(x) ** 0.5
    assert abs(x.var() - 1) < 4 * (2 / len(x)) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / len(x)) ** 0.5
    assert torch.isfinite(x).all()


def test_components_atoms_steps_seeds_and_streams_are_uncorrelated():
    a = draw(50_000)
    others = [draw(50_000, step=6), draw(50_000, seed=4), draw(50_000, stream=BAROSTAT), a.roll(1, 0), a.roll(1, 1)]
    for b in others:
        assert abs((a * b).mean()) < 4 / a.numel() ** 0.5


def test_noise_does_not_depend_on_the_neighbours_in_the_batch():
    whole = draw(1001)
    for first, last in ((0, 1), (3, 10), (500, 1001)):
        part = gaussian(torch.full((last - first,), 3), torch.arange(first, last), torch.tensor(5), THERMOSTAT)
        assert torch.equal(part, whole[first:last])
