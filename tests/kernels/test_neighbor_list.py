"""The device neighbour list in Triton at full size on a GPU."""

import pytest
import torch
from kernels.contract import gpu
from systems import copper, water_box, water_molecule

from mosso.data.structure import Batch
from mosso.graph.device_list import DeviceList
from mosso.graph.graph import Graph
from mosso.graph.neighbors import neighbor_list

pytestmark = gpu


@pytest.mark.parametrize("method", ["brute", "cells"])
@pytest.mark.parametrize("cutoff", [3.0, 6.0])
def test_full_size(cutoff: float, method: str) -> None:
    """Thousands of atoms in one batch with few."""
    batch = Batch.of([copper(6), water_box(9), water_molecule(), copper(1)], "cuda")
    device_list = DeviceList(batch, cutoff, 0.8, method=method, implementation="triton")
    device_list.rebuild(batch)
    graph = device_list.graph(batch)
    count = int(graph.receiver_offsets[-1])
    found = Graph.from_edges(graph.senders_E[:count], graph.receivers_E[:count], graph.shifts_E3[:count], batch.num_atoms, cutoff)
    want = neighbor_list(batch, cutoff, "brute")
    for name in ("senders_E", "receivers_E", "shifts_E3", "receiver_offsets", "transpose_E", "sender_offsets"):
        assert torch.equal(getattr(found, name), getattr(want, name)), name
    assert torch.equal(graph.transpose_E, torch.argsort(graph.senders_E, stable=True))
    assert int(device_list.flags) == 0
