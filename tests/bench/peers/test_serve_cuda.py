"""What serve.py asks of torch where there is a GPU, with a torch that only counts."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mosso.bench.peers import serve


class Counting:
    """torch.cuda with 5 GB of tensors, 2 GB of recordings, 1 GB of cache, and calls that need 3 GB more for a while."""

    def __init__(self) -> None:
        self.cached, self.peak, self.waits = 1.0, 99.0, 0

    def synchronize(self) -> None:
        self.waits += 1

    def empty_cache(self) -> None:
        self.cached = 0.0

    def reset_peak_memory_stats(self) -> None:
        self.peak = 5.0

    def memory_allocated(self) -> float:
        return 5e9

    def memory_reserved(self) -> float:
        return (5 + 2 + self.cached) * 1e9

    def max_memory_allocated(self) -> float:
        return self.peak * 1e9


class OnDevice:
    packages, device = (), "cuda"
    facts = {"list_inside": False}

    def __init__(self, cuda: Counting) -> None:
        self.cuda, self.calls = cuda, []

    def prepare(self, structures, stress):
        return 3

    def place(self, positions):
        self.calls.append("place")

    def search(self):
        self.calls.append("search")

    def evaluate(self):
        self.calls.append("evaluate")
        self.cuda.peak = max(self.cuda.peak, 8.0)

    def search_and_evaluate(self):
        self.calls.append("both")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> serve.Server:
    cuda = Counting()
    matmul = SimpleNamespace(fp32_precision="tf32")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, backends=SimpleNamespace(cuda=SimpleNamespace(matmul=matmul))))
    found = serve.Server(lambda: OnDevice(cuda))
    assert found.load()["tf32"] is True
    arrays = serve.Structures(np.ones(2, int), np.zeros((2, 3)), np.zeros(2, int), np.zeros((1, 3, 3)), np.zeros((1, 3), bool))
    np.savez(tmp_path / "atoms.npz", **arrays._asdict())
    found.prepare(str(tmp_path / "atoms.npz"), stress=False)
    return found


def test_memory_is_reset_and_counts_recordings(server: serve.Server) -> None:
    reply = server.memory()
    assert reply == {"peak_GB": pytest.approx(8.0 + 2.0), "memory_of": "device"}, "not the 99 of before, nor what is cached"


def test_the_device_is_waited_for_on_both_sides_of_the_clock(server: serve.Server) -> None:
    before = server._adapter.cuda.waits
    server.measure(calls=4)
    assert server._adapter.cuda.waits - before == 8


def test_a_search_and_an_evaluation_can_be_one(server: serve.Server) -> None:
    server.measure(calls=1, what="both")
    assert server._adapter.calls == ["place", "both"]
    server.measure(calls=1, what="list")
    server.measure(calls=1)
    assert server._adapter.calls[2:] == ["place", "search", "place", "evaluate"]
