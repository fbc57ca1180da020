"""Tables, JSON and progress as such."""

import json
import os
import pty
import subprocess
import sys
import time

import numpy as np
import pytest

from mosso.cli.output import Bar, plural, print_json


def test_json_is_json_whatever_comes(capsys, tmp_path):
    print_json({"nan": float("nan"), "array": np.array([1.0, np.inf]), "path": tmp_path, 3: (np.float32(0.5), None, True, np.int64(2))})
    assert json.loads(capsys.readouterr().out) == {"nan": None, "array": [1.0, None], "path": str(tmp_path), "3": [0.5, None, True, 2]}


def test_plural():
    assert (plural(0, "frame"), plural(1, "frame"), plural(2, "frame")) == ("0 frames", "1 frame", "2 frames")


def test_no_bar_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("mosso.cli.output.PATIENCE", 0.0)
    with Bar("Working", total=3) as bar:
        for step in range(3):
            bar.move_to(step, "detail")
    assert capsys.readouterr() == ("", "")


CODE = """
import sys
import mosso.cli.output as output
output.PATIENCE = float(sys.argv[1])
with output.Bar("Working", total=3, wanted=sys.argv[2] == "yes") as bar:
    for step in range(4):
        bar.move_to(step, "some detail")
print("done")
"""


@pytest.mark.parametrize(("patience", "wanted", "shown"), [("0", "yes", True), ("0", "no", False), ("100", "yes", False)])
def test_a_bar_on_a_terminal(patience, wanted, shown):
    """On stderr only, after a while only, when wanted only."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", CODE, patience, wanted]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "120"}) as process:
        stdout, _ = process.communicate(timeout=30)
    os.close(theirs)
    seen = b""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed and everything has been read
            break
        if not chunk:
            break
        seen += chunk
    os.close(ours)
    assert stdout == b"done\n"
    assert (b"Working" in seen and b"some detail" in seen) is shown
    assert shown or seen == b""
