"""models, info and convert."""

import json

import pytest


def test_models_lists_the_table(run, run_json, monkeypatch, tmp_path):
    from mosso.weights.store import MODELS

    monkeypatch.setenv("MOSSO_CACHE", str(tmp_path))
    rows = run_json("models")
    assert [row["name"] for row in rows] == [model.name for model in MODELS]
    assert {"name", "family", "url", "sha256", "licence", "citation", "here"} <= set(rows[0])
    assert not any(row["here"] for row in rows if row["url"])
    text = run("models").stdout
    for model in MODELS:
        assert model.name in text


def test_info(run, run_json, model_file):
    document = run_json("info", model_file)
    assert document["name"] == "tiny"
    assert document["architecture"] == "mace"
    assert document["cutoff"] == 3.5
    assert document["species"] == [1, 6, 8, 29]
    assert document["provenance"]["licence"] == "none"
    assert document["num_parameters"] > 100
    text = run("info", model_file).stdout
    for word in ("mace", "3.5 A", "H, C, O, Cu", "random weights"):
        assert word in text


@pytest.mark.parametrize("name", ["no-such-model", "gone.mosso", "gone.model", "__init__.py"])
def test_info_of_what_is_not_a_model(run, name):
    result = run("info", name)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert name.split(".")[0] in result.stderr
    assert json.loads(run("info", name, "--json").stdout).keys() == {"error"}


def test_convert_refuses_before_it_writes(run, tmp_path):
    source = tmp_path / "a.model"
    source.write_bytes(b"not a checkpoint")
    for out, word in ((tmp_path / "b.txt", ".mosso"), (tmp_path / "no" / "b.mosso", "does not exist"), (tmp_path / "b.mosso", "a.model")):
        result = run("convert", source, "-o", out)
        assert result.exit_code == 2
        assert word in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["a.model"]


def test_convert(run, run_json, solvent_checkpoint, tmp_path):
    out = tmp_path / "solvent.mosso"
    document = run_json("convert", solvent_checkpoint, "--out", out)
    assert document["out"] == str(out)
    assert document["species"] == [1, 6, 8]
    assert run_json("info", out)["tensors_sha256"] == document["tensors_sha256"]
    assert "solvent" in run("convert", solvent_checkpoint, "--out", out).stdout
    assert [path.name for path in tmp_path.iterdir()] == ["solvent.mosso"]


def test_only_named_models_are_fetched(monkeypatch, model_file):
    from mosso.cli.loading import fetch
    from mosso.weights import store

    fetched = []

    def fake(name, progress):
        progress(5, None)
        progress(5, 10)
        fetched.append(name)

    monkeypatch.setattr(store, "fetch", fake)
    for name in (str(model_file), "gone.mosso", "mosso-xtb-s", "mace-mp-0-small"):
        fetch(name, progress=True)
    assert fetched == ["mace-mp-0-small"]
