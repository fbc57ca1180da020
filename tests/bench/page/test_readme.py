"""The table of the README is what the command in front of it makes of the committed rows."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mosso.cli.app import app

ROOT = Path(__file__).parents[3]


def test_the_table_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    """After another measurement: put the output of the command between the two comments."""
    monkeypatch.chdir(ROOT)
    command, table = re.findall(r"<!-- mosso (report .*) -->\n(.*?)<!-- end -->", Path("README.md").read_text(encoding="utf-8"), re.DOTALL)[
        0
    ]
    made = CliRunner().invoke(app, shlex.split(command))
    assert made.exit_code == 0, made.output
    assert table == made.stdout
