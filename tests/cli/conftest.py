"""A runner for verbs and a small model file."""

import json
import os
from pathlib import Path

import pytest
from cli.tiny_model import write_tiny_model
from typer.testing import CliRunner


@pytest.fixture
def run(monkeypatch):
    """``run("md", path, "--steps", 3)`` in this process; the result has exit_code, stdout, stderr."""
    monkeypatch.setenv("TERMINAL_WIDTH", "200")  # rich folds help and usage errors otherwise
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("MOSSO_DEBUG", raising=False)

    def call(*arguments):
        from mosso.cli.app import app

        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


@pytest.fixture
def run_json(run):
    """The same with ``--json``: the document, after checking that stdout holds it and stderr nothing."""

    def call(*arguments):
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return json.loads(result.stdout)

    return call


@pytest.fixture(scope="session")
def model_file(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.mosso")


@pytest.fixture(scope="session")
def solvent_checkpoint() -> Path:
    """A real trained MACE, where the shared data are at hand."""
    shared = Path(os.environ.get("MOSSO_SHARED", Path(__file__).parents[2].parent / "shared"))
    path = shared / "checkpoints" / "mace_solvent_01.model"
    if not path.exists():
        pytest.skip(f"needs {path.name} in the shared data (MOSSO_SHARED)")
    return path
