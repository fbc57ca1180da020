"""The writer thread: order, backpressure, errors, closing."""

import threading
import time

import pytest
from ase.io import read
from dynamics.potentials import argon, cluster

from mosso.dynamics.integrators import Langevin
from mosso.dynamics.simulate import simulate
from mosso.dynamics.trajectory import LogWriter, TrajectoryWriter
from mosso.dynamics.writing import WriterThread


def test_calls_are_made_in_order_elsewhere():
    done = []
    with WriterThread() as writer:
        for i in range(100):
            writer.submit(lambda i: done.append((i, threading.current_thread().name)), i)
        writer.wait()
        assert done == [(i, "mosso-writer") for i in range(100)]


def test_closing_does_what_is_still_waiting():
    done = []
    writer = WriterThread()
    for i in range(5):
        writer.submit(lambda i: (time.sleep(0.01), done.append(i)), i)
    writer.close()
    writer.close()
    assert done == list(range(5))


def test_a_full_queue_makes_the_caller_wait():
    gate = threading.Event()
    with WriterThread(max_waiting=2) as writer:
        for _ in range(3):  # one at work, two waiting
            writer.submit(gate.wait, 5.0)
        threading.Timer(0.1, gate.set).start()
        before = time.perf_counter()
        writer.submit(gate.wait, 5.0)
        writer.submit(gate.wait, 5.0)
        assert time.perf_counter() - before > 0.05


def test_an_error_surfaces_once_and_what_follows_it_is_dropped():
    done = []

    def fail():
        raise OSError("disk full")

    writer = WriterThread()
    writer.submit(fail)
    writer.submit(done.append, 1)
    with pytest.raises(OSError, match="disk full"):
        writer.wait()
    writer.submit(done.append, 2)
    writer.close()
    assert done == []


def test_a_disk_that_fills_up_stops_a_simulation(tmp_path):
    class Full(LogWriter):
        def __call__(self, row):
            if row.step == 20:
                raise OSError("disk full")
            super().__call__(row)

    with pytest.raises(OSError, match="disk full"), Full(tmp_path / "log.csv") as log, WriterThread() as writer:
        simulate(argon(), cluster(), Langevin(60.0), num_steps=1000, log_every=10, on_log=writer.later(log))
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 2


@pytest.mark.parametrize("suffix", ["extxyz", "traj"])
def test_files_are_those_of_a_run_that_writes_itself(tmp_path, suffix):
    def run(path, through):
        with TrajectoryWriter(path) as frames, LogWriter(path.with_suffix(".csv")) as log, WriterThread() as writer:
            handlers = {"on_log": writer.later(log) if through else log, "on_frame": writer.later(frames) if through else frames}
            simulate(argon(), cluster(), Langevin(60.0), num_steps=20, log_every=1, write_every=2, **handlers)

    one, other = tmp_path / f"one.{suffix}", tmp_path / f"other.{suffix}"
    run(one, through=False)
    run(other, through=True)
    assert one.with_suffix(".csv").read_bytes() == other.with_suffix(".csv").read_bytes()
    assert len(read(one, ":")) == len(read(other, ":")) == 11
    assert one.read_bytes() == other.read_bytes()
