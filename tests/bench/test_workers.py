"""Processes that answer, fail, hang and die; and that nothing of them is left."""

import os
import time
from pathlib import Path

import pytest
from bench.contest import ADAPTER, Scene

from mosso.bench import workers
from mosso.bench.workers import Worker, WorkerError

LOAD = {"model": "spring", "backend": "good", "precision": "fp32", "device": "cpu"}


def start(scene: Scene, adapter: Path = ADAPTER, python: Path | None = None) -> Worker:
    found = scene.interpreter("harmonic")
    return Worker(python or found.python, adapter, found.environment, scene.work)


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "adapter.py"
    path.write_text(text)
    return path


def test_it_says_who_it_is_and_answers(scene: Scene) -> None:
    with start(scene) as worker:
        worker.ready()
        assert worker.described["versions"]["torch"] == "stub"
        assert worker.described["threads"] == 3
        assert 0 < worker.start_s < 20
        assert worker.ask("load", 10.0, **LOAD)["parameters"] == 1
    assert not worker.alive


def test_a_failure_leaves_it_alive(scene: Scene) -> None:
    with start(scene) as worker:
        with pytest.raises(WorkerError, match="ValueError: no such model") as error:
            worker.ask("load", 10.0, **{**LOAD, "model": "broken"})
        assert error.value.kind == "failure"
        with pytest.raises(WorkerError) as error:
            worker.ask("load", 10.0, **{**LOAD, "model": "single", "precision": "fp64"})
        assert error.value.kind == "unsupported"
        assert worker.alive
        assert worker.ask("load", 10.0, **LOAD)["weights"] == "random"


def test_a_hanging_process_is_ended_with_what_it_started(scene: Scene, tmp_path: Path) -> None:
    adapter = script(
        tmp_path,
        f"""
import subprocess, sys, time
class Adapter:
    packages = ()
    def __init__(self, **arguments):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
        time.sleep(60)
""",
    )
    worker = start(scene, adapter)
    begin = time.perf_counter()
    with pytest.raises(WorkerError, match="no reply to load within 1 s") as error:
        worker.ask("load", 1.0, **LOAD)
    assert error.value.kind == "timeout"
    assert time.perf_counter() - begin < 10
    assert not worker.alive
    assert _gone(int((tmp_path / "child").read_text()))


def test_a_dying_process_says_what_it_printed(scene: Scene, tmp_path: Path) -> None:
    text = "import os, sys\nclass Adapter:\n    packages = ()\n    def __init__(self, **arguments):\n"
    adapter = script(tmp_path, text + "        print('no licence found', flush=True)\n        os._exit(3)\n")
    with start(scene, adapter) as worker, pytest.raises(WorkerError, match=r"exit code 3\); it printed: .*no licence found") as error:
        worker.ask("load", 10.0, **LOAD)
    assert error.value.kind == "crash"


def test_what_was_printed_before_a_request_is_not_told(scene: Scene, tmp_path: Path) -> None:
    text = "import os\nclass Adapter:\n    packages = ()\n    def __init__(self, **arguments):\n"
    text += "        if arguments['model'] == 'spring': raise ValueError('long ago')\n        os._exit(3)\n"
    with start(scene, script(tmp_path, text)) as worker:
        with pytest.raises(WorkerError, match="long ago"):
            worker.ask("load", 10.0, **LOAD)
        with pytest.raises(WorkerError, match="exit code 3") as error:
            worker.ask("load", 10.0, **{**LOAD, "model": "other"})
    assert "long ago" not in str(error.value)


def test_a_killed_process_names_the_signal(scene: Scene, tmp_path: Path) -> None:
    text = "import os, signal\nclass Adapter:\n    packages = ()\n    def __init__(self, **arguments):\n"
    adapter = script(tmp_path, text + "        os.kill(os.getpid(), signal.SIGKILL)\n")
    with start(scene, adapter) as worker, pytest.raises(WorkerError, match="SIGKILL, as the system does when memory runs out"):
        worker.ask("load", 10.0, **LOAD)


def test_an_import_that_fails_is_told(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="No module named 'a_package_that_is_not_there'"):
        start(scene, script(tmp_path, "import a_package_that_is_not_there\n")).ready()


def test_an_import_that_hangs_is_ended(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "START_TIMEOUT", 1.0)
    with pytest.raises(WorkerError, match="no reply to start within 1 s"):
        start(scene, script(tmp_path, "import time\ntime.sleep(60)\n")).ready()


def test_an_interpreter_that_is_none(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="cannot be run: No such file"):
        start(scene, python=tmp_path / "python")
    with pytest.raises(WorkerError, match="not understood|ended during start"):
        start(scene, python=Path("/bin/echo")).ready()


def test_what_a_failing_import_printed_is_told_though_something_was_asked(scene: Scene, tmp_path: Path) -> None:
    worker = start(scene, script(tmp_path, "import os\nprint('no driver found', flush=True)\nos._exit(3)\n"))
    while worker._replies.empty():
        time.sleep(0.01)
    worker.send("load", **LOAD)
    with pytest.raises(WorkerError, match=r"ended during start \(exit code 3\); it printed: no driver found"):
        worker.reply("load", 10.0)
    assert not worker.alive


def test_a_start_lasts_until_it_has_replied_whoever_reads_that(scene: Scene) -> None:
    begin = time.perf_counter()
    with start(scene) as worker:
        while worker._replies.empty():
            time.sleep(0.01)
        there = time.perf_counter()
        time.sleep(0.2)
        worker.ready()
        assert 0 < worker.start_s <= there - begin


def test_closing_twice_is_fine(scene: Scene) -> None:
    worker = start(scene)
    worker.close()
    worker.close()
    assert not worker.alive


def _gone(process: int) -> bool:
    for _ in range(100):
        try:
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
            os.kill(process, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.02)
    return False
