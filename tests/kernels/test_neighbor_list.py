"""The device neighbour list in Triton: its contract under Triton's interpreter, and full sizes on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from systems import copper, water_box, water_molecule

from mosso.data.structure import Batch
from mosso.graph.device_list import DeviceList
from mosso.graph.graph import Graph
from mosso.graph.neighbors import neighbor_list

pytest.importorskip("triton")

CONTRACT = Path(__file__).with_name("neighbor_list_contract.py")
ON_GPU = torch.cuda.is_available()

if ON_GPU:
    pytest.register_assert_rewrite("kernels.neighbor_list_contract")
    from kernels.neighbor_list_contract import *  # noqa: F403

# With a GPU everything here runs on it; without one, what needs it is collected and skipped.
pytestmark = [pytest.mark.gpu] if ON_GPU else []
gpu = (pytest.mark.gpu, pytest.mark.skipif(not ON_GPU, reason="no CUDA device"))


@pytest.mark.skipif(ON_GPU, reason="the contract runs on the GPU instead")
def test_contract_under_the_interpreter() -> None:
    """In a process of its own, because triton has to be imported in its interpreting mode."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CONTRACT)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, cwd=CONTRACT.parents[2], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.skipif(ON_GPU, reason="there is a CUDA device")
def test_refuses_the_cpu() -> None:
    with pytest.raises(ValueError, match="triton implementation of neighbor_list cannot run here"):
        DeviceList(Batch.of([water_molecule()]), 3.0, 0.5, implementation="triton")


@pytest.mark.parametrize("method", ["brute", "cells"])
@pytest.mark.parametrize("cutoff", [pytest.param(3.0, marks=gpu), pytest.param(6.0, marks=gpu)])
def test_full_size(cutoff: float, method: str) -> None:
    """Thousands of atoms in one batch with few."""
    batch = Batch.of([copper(6), water_box(9), water_molecule(), copper(1)], "cuda")
    device_list = DeviceList(batch, cutoff, 0.8, method=method)
    device_list.rebuild(batch)
    graph = device_list.graph(batch)
    count = int(graph.receiver_offsets[-1])
    found = Graph.from_edges(graph.senders_E[:count], graph.receivers_E[:count], graph.shifts_E3[:count], batch.num_atoms, cutoff)
    want = neighbor_list(batch, cutoff, "brute")
    for name in ("senders_E", "receivers_E", "shifts_E3", "receiver_offsets", "transpose_E", "sender_offsets"):
        assert torch.equal(getattr(found, name), getattr(want, name)), name
    assert torch.equal(graph.transpose_E, torch.argsort(graph.senders_E, stable=True))
    assert int(device_list.flags) == 0
