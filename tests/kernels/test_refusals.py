"""Asking for a Triton op for tensors of the CPU is an error that says what to do, never something else in silence."""

import pytest
import torch
from systems import water_molecule

from mosso.data.structure import Batch
from mosso.graph.device_list import DeviceList
from mosso.kernels import gaussian
from mosso.math.coupling import contraction_table, symmetric_coupling

pytest.importorskip("triton")


def test_neighbor_list() -> None:
    with pytest.raises(ValueError, match="triton implementation of neighbor_list cannot run here"):
        DeviceList(Batch.of([water_molecule()]), 3.0, 0.5, implementation="triton")


def test_gaussian() -> None:
    with pytest.raises(ValueError, match="triton implementation of gaussian cannot run here"):
        gaussian(torch.zeros(2, dtype=torch.int64), torch.arange(2), torch.tensor(0), 0, "triton")


def test_symmetric_contraction() -> None:
    from mosso.kernels.fused.symmetric_contraction import symmetric_contraction_triton

    table = contraction_table([[symmetric_coupling(1, 0, 1)]])
    with pytest.raises(ValueError, match=r"CUDA device .* reference"):
        symmetric_contraction_triton(torch.zeros(2, 4, 3), torch.zeros(1, 1, 3), torch.zeros(2, dtype=torch.int64), table)
