"""What recordings are made with; the graphs themselves are tested on the GPU."""

import gc
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from models.zoo import potential
from systems import water_box

from mosso.data.structure import Batch
from mosso.engine import capture
from mosso.engine.capture import HEADROOM, copy_all, record, room_for
from mosso.graph.neighbors import neighbor_list


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_during_a_recording(enabled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the recording fails; and afterwards all is as before."""
    graphs = SimpleNamespace(CUDAGraph=object, graph=lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "cuda", graphs)
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        assert record(gc.isenabled)[1] is False
        with pytest.raises(ZeroDivisionError):
            record(lambda: 1 // 0)
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_all_types_are_copied_into_the_tensors_that_are_there() -> None:
    values = [torch.randn(3, 2), torch.tensor(7), torch.randn(4, dtype=torch.float64), torch.tensor([True, False]), torch.randn(2)]
    into = [torch.zeros_like(value) for value in values]
    places = [tensor.data_ptr() for tensor in into]
    copy_all(into, values)
    assert all(torch.equal(one, other) for one, other in zip(into, values, strict=True))
    assert places == [tensor.data_ptr() for tensor in into]
    copy_all([], [])


def test_headroom_is_added_once() -> None:
    graph = neighbor_list(Batch.of([water_box(2)]), 4.0)
    with_room = room_for(graph)
    assert graph.capacity < with_room <= HEADROOM * graph.capacity
    assert room_for(graph.padded(with_room)) == with_room
    nothing = neighbor_list(Batch.of([]), 4.0)
    assert room_for(nothing) == 1


def test_a_recording_has_the_room_of_a_graph_that_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"CUDAGraph": object, "graph": lambda *_, **__: nullcontext(), "device": lambda _: nullcontext()}
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(**places))
    monkeypatch.setattr(capture, "warm_up", lambda compute: compute())
    eager = potential("mace-plain")
    batch = eager.batch([water_box(1)])
    graph = eager.graph(batch)
    for given, room in ((graph, int(HEADROOM * graph.capacity)), (graph.padded(graph.capacity + 7), graph.capacity + 7)):
        assert capture._Recording(eager, batch, given, stress=False).graph.capacity == room
