"""Real data and checkpoints that are not part of the repository."""

import os
from pathlib import Path

import pytest


def shared_file(name: str) -> Path:
    """A file below MOSSO_SHARED (by default ``shared`` beside the repository); skips the test where it is missing."""
    folder = Path(os.environ.get("MOSSO_SHARED", Path(__file__).parents[2] / "shared"))
    path = folder / name
    if not path.exists():
        pytest.skip(f"{name} is not there: set MOSSO_SHARED to the folder that holds it")
    return path
