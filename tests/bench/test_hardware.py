"""What the machine tells, with programs in the place of nvidia-smi that say one thing or another."""

from pathlib import Path

import pytest

from mosso.bench import hardware


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``smi("text")`` puts an nvidia-smi there that prints it, and fails where it is None."""

    def put(text: str | None) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\nexit 9\n" if text is None else f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\necho '{text}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


def test_a_gpu_that_tells_everything(smi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi("1980, 41")
    assert hardware.sensors("cuda") == hardware.Sensors(1980.0, 41.0)
    smi("NVIDIA H200, 580.95.05")
    found = hardware.hardware("cuda", threads=4)
    assert (found.gpu, found.driver, found.threads) == ("NVIDIA H200", "580.95.05", 4)
    smi("143771")
    assert hardware.memory_GB("cuda") == pytest.approx(150.75, abs=0.01)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    hardware.memory_GB("cuda")
    assert "--id=3" in (tmp_path / "asked").read_text(), "the first that competitors see"


@pytest.mark.parametrize("text", [None, "[N/A], 41", "", "1980"])
def test_what_it_does_not_tell_is_none(smi, text: str | None) -> None:
    smi(text)
    assert hardware.sensors("cuda") is None


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = hardware.hardware("cuda")
    assert found.gpu is None and found.driver is None
    assert hardware.sensors("cpu") is None
    assert hardware.memory_GB("cuda") is None
    assert 0.1 < hardware.memory_GB("cpu") < 1e5
    assert hardware.hardware("cpu").cpu
