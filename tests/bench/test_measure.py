"""What a measurement says of the code that was measured."""

import subprocess
from pathlib import Path

import pytest

from mosso.bench import measure


def test_commit_of_a_checkout_with_and_without_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        settings = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(["git", *settings, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(measure, "__file__", str(tmp_path / "measure.py"))
    assert measure.commit() is None
    (tmp_path / "measure.py").write_text("a = 1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    git("tag", "v1")
    head = git("rev-parse", "HEAD")
    assert measure.commit() == head
    (tmp_path / "measure.py").write_text("a = 2")
    assert measure.commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert measure.commit() is None
