"""profile."""

import gzip
import json

import pytest


@pytest.fixture
def water_file(tmp_path):
    from mosso.bench.cases import water
    from mosso.data.writers import write_frames

    path = tmp_path / "water.extxyz"
    write_frames(path, [(water(1), {"energy": 0.0, "forces": water(1).positions})])
    return path


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for module in ("rates", "profile.anatomy"):
        monkeypatch.setattr(f"mosso.bench.{module}.SECONDS", 0.0)


def test_profile_of_a_file(run, model_file, water_file, tmp_path):
    trace, out = tmp_path / "trace.json.gz", tmp_path / "profile.json"
    result = run("profile", water_file, "--model", model_file, "--device", "cpu", "--calls", 1, "--trace", trace, "--out", out)
    assert result.exit_code == 0, result.output
    for word in (
        "tiny (random weights), fp32 on cpu",
        "3 atoms",
        "interaction",
        "whole call",
        "neighbour list",
        "aten::",
        "verdict",
        "-bound: ",
    ):
        assert word in result.stdout
    assert "ui.perfetto.dev" in result.stderr
    document = json.loads(out.read_text())
    assert document["schema_name"] == "mosso-profile/2"
    assert document["system"] == str(water_file)
    names = {record["name"] for record in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]}
    assert {"mosso: call", "mosso: neighbour list", "mosso: embedding", "mosso: interaction 0", "mosso: product 1"} <= names


def test_json_of_a_system(run_json, model_file):
    document = run_json("profile", "--system", "C8", "--model", model_file, "--device", "cpu", "--calls", 1, "--stress")
    assert (document["atoms"], document["stress"], document["mode"]) == (8, True, "eager")
    assert {"block", "device_ms", "host_ms", "launches"} <= set(document["blocks"][0])
    assert set(document["kernels"][0]) == {"kernel", "launches", "us", "share"}


def test_limits_are_counted_and_nothing_is_run(run, model_file, monkeypatch):
    monkeypatch.setattr("mosso.bench.profile.anatomy.anatomy", None)
    result = run("profile", "--system", "C8", "--model", model_file, "--device", "cpu", "--limits")
    assert result.exit_code == 0, result.output
    assert "atoms=8" in result.stdout and "| radial moments | forward | " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "either a file of structures or --system"),
        (("a.xyz", "--system", "C8"), "either a file of structures or --system"),
        (("--system", "C9"), "Unknown system 'C9': choose one of Cu64"),
        (("--system", "C8", "--model", "mace-huge"), "shapes of the benchmark"),
        (("--system", "C8", "--trace", "out.txt"), ".json or .json.gz"),
        (("--system", "C8", "--precision", "fp7"), "Unknown precision 'fp7'"),
        (("gone.xyz",), "gone.xyz"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, model_file, arguments, words):
    if "--model" not in arguments:
        arguments = (*arguments, "--model", model_file)
    result = run("profile", *arguments, "--device", "cpu")
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_elements_the_model_does_not_know(run):
    result = run("profile", "--system", "Cu64", "--device", "cpu")
    assert result.exit_code == 2
    assert "does not know element Cu" in result.stderr
