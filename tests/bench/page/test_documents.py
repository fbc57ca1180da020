"""Tables in the documents are what the command in front of them makes of the committed rows.

After another measurement: put the output of the command between the two comments.
"""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mosso.cli.app import app

ROOT = Path(__file__).parents[3]
TABLES = [
    (path.name, command, table)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for command, table in re.findall(r"<!-- mosso (report [^\n]*) -->\n(.*?)<!-- end -->", path.read_text(encoding="utf-8"), re.DOTALL)
]


@pytest.mark.parametrize(("document", "command", "table"), TABLES, ids=[f"{name}: {command}" for name, command, _ in TABLES])
def test_tables_are_those_of_the_rows(document: str, command: str, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    made = CliRunner().invoke(app, shlex.split(command))
    assert made.exit_code == 0, made.output
    assert table == made.stdout, f"{document} is older than its rows"


def test_there_is_one_in_the_readme() -> None:
    assert "README.md" in [name for name, *_ in TABLES]
