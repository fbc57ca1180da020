"""The command as a whole: help, version, speed of the front door, exit codes."""

import re
import subprocess
import sys
import time

import pytest

VERBS = ("models", "info", "convert", "evaluate", "relax", "md", "report")


def test_help_lists_the_verbs(run):
    result = run("--help")
    assert result.exit_code == 0
    for verb in VERBS:
        assert re.search(rf"\b{verb}\b", result.stdout)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(run, verb):
    result = run(verb, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_help_does_not_import_torch():
    code = "import sys, mosso.cli.app; sys.exit(any(name in sys.modules for name in ('torch', 'ase', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_is_instant():
    best = min(_seconds_of_help() for _ in range(3))
    assert best < 1.0  # 0.3 s on an idle machine


def _seconds_of_help() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mosso.cli", "--help"], check=True, capture_output=True)
    return time.perf_counter() - started


def test_version(run):
    from mosso.version import VERSION

    assert run("--version").stdout == f"mosso {VERSION}\n"


def test_unknown_verb_and_flag(run):
    assert run("simulate").exit_code == 2
    assert run("evaluate", "x.xyz", "--fast").exit_code == 2
    assert run("evaluate").exit_code == 2
