"""The end of a chain, on a small run written by hand: a model of the hub, and files from anywhere."""

import json
from pathlib import Path

import pandas as pd
import pytest

from mechdiff.provenance.explain import explain
from mechdiff.provenance.explanation import explanation_text
from mechdiff.provenance.records import build_manifest, hashed_files, manifest_text

RUN, COMMIT = "results/r", "0123456789abcdef0123456789abcdef01234567"
FETCHED = f"results/checkpoints/owner--name/{COMMIT}"
MODEL = {"name": "tuned", "path": FETCHED, "hub": "owner/name", "base": None, "dtype": "float32", "device": "cpu"}


def job(name: str, rule: str, inputs: list[str], outputs: list[str], wildcards=(), **params) -> str:
    """A job's record; returns its path."""
    value: dict[str, object] = {"rule": rule, "inputs": hashed_files(inputs), "outputs": hashed_files(outputs)}
    value |= {"git": None, "wildcards": dict(wildcards), "params": params, "code": {"version": "c0de", "modules": {}}}
    value |= {
        "environment": {"device": "cuda:0 (A GPU)", "threads": 2, "packages": {}},
        "started": "now",
        "wall_seconds": 1.5,
    }
    Path(f"{name}.record.json").write_text(json.dumps(value))
    return f"{name}.record.json"


@pytest.fixture
def table(tmp_path, monkeypatch) -> str:
    """fetch -> dataset -> measure -> table, with an object list on another disk."""
    monkeypatch.chdir(tmp_path)
    for folder in (FETCHED, f"{RUN}/tables", f"{RUN}/dataset"):
        Path(folder).mkdir(parents=True)
    objects = tmp_path / "disk" / "objects.txt"
    objects.parent.mkdir()
    objects.write_text("apple")
    weights, tokens = f"{FETCHED}/model.safetensors", f"{FETCHED}/tokenizer.json"
    for file in (weights, tokens, f"{RUN}/rows.txt"):
        Path(file).write_text(file)
    split, made = f"{RUN}/dataset/evaluation.parquet", f"{RUN}/tables/table_x.csv"
    pd.DataFrame({"scene_id": [0, 0, 1]}).to_parquet(split)
    pd.DataFrame(
        {"model": ["tuned"], "n": [3], "accuracy": [0.5], "low": [0.25], "high": [1.0], "paper_accuracy": 0.66}
    ).to_csv(made, index=False)
    Path("paper.yaml").write_text("0.66")
    records = [
        job(FETCHED, "fetch_model", [], [FETCHED], model=MODEL),
        job(split, "generate_dataset", [str(objects), FETCHED], [split], {"split": "evaluation"}, seed=7),
        job(f"{RUN}/rows", "measure", [FETCHED, split], [f"{RUN}/rows.txt"], {"model": "tuned"}, model=MODEL, memory=9),
        job(f"{RUN}/tables/table_x", "table_x", [f"{RUN}/rows.txt", "paper.yaml"], [made]),
    ]
    Path(f"{RUN}/manifest.json").write_text(manifest_text(build_manifest(RUN, records)))
    return made


def test_a_model_of_the_hub_is_told_by_id_and_commit_and_its_weights(table):
    (model,) = explain(table, "tuned", "accuracy")["models"]
    assert (model["hub"], model["revision"]) == ("owner/name", COMMIT)
    assert model["weights"] == [f"{FETCHED}/model.safetensors"]
    assert {Path(file["path"]).name for file in model["files"]} == {"model.safetensors", "tokenizer.json"}


def test_a_dataset_is_told_by_rows_scenes_seed_and_what_it_was_drawn_from(table):
    (dataset,) = explain(table, "tuned", "accuracy")["datasets"]
    assert (dataset["split"], dataset["rows"], dataset["scenes"], dataset["seed"]) == ("evaluation", 3, 2, 7)
    assert [Path(file["path"]).name for file in dataset["files"]] == ["objects.txt", "tokenizer.json"]


def test_a_number_without_a_formula_has_its_interval_and_its_chain(table):
    found = explain(table, "tuned", "accuracy")
    assert (found["value"], found["low"], found["high"], found["n"]) == (0.5, 0.25, 1.0, 3)
    assert found["formula"] is None and found["printed"] is None
    assert [job["rule"] for job in found["jobs"]] == ["table_x", "measure", "fetch_model", "generate_dataset"]
    assert found["jobs"][1]["params"] == {"model": MODEL, "memory": 9}


def test_a_number_of_the_paper_is_not_of_this_run(table):
    found = explain(table, "tuned", "paper_accuracy")
    assert (found["value"], found["n"], found["models"], found["datasets"]) == (0.66, None, [], [])
    assert [job["rule"] for job in found["jobs"]] == ["table_x"]
    assert [file["path"] for file in found["other_inputs"]] == ["paper.yaml"]


def test_it_is_told_in_lines(table):
    text = explanation_text(explain(table, "tuned", "accuracy"))
    for line in (
        f"{table}: accuracy of model=tuned\n  exact    0.5 [0.25, 1.0], n = 3\n",
        "\n  [2] measure model=tuned\n      with   model=tuned(float32, cpu) memory=9\n",
        "\n      code   c0de, no git checkout\n",
        "\n      on     cuda:0 (A GPU), 2 threads; ",
        "\n    [3] fetch_model\n",
        "split evaluation, 3 rows, 2 scenes, seed 7, drawn from\n",
        f"\n  model tuned: owner/name at {COMMIT}\n",
    ):
        assert line in text
