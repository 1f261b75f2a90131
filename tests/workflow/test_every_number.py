"""Every number of a finished run is followed from its cell to dataset and weights."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from mechdiff.common.errors import InputError
from mechdiff.common.files import file_sha256
from mechdiff.provenance.cells import key_columns, read_table
from mechdiff.provenance.explain import explain, printed_cell
from small_run import RUN, copy_of, forge, mechdiff

TABLE_1 = f"{RUN}/tables/table_1.csv"
BASE, ADAPTER = "resources/models/mini-llama", "resources/models/mini-goat"
WEIGHTS = {"mini-llama": [f"{BASE}/model.safetensors"], "mini-goat": [f"{ADAPTER}/adapter_model.safetensors"]}


@pytest.fixture
def run(finished, monkeypatch) -> Path:
    monkeypatch.chdir(finished)
    return Path(RUN)


def numeric_columns(table: pd.DataFrame) -> list[str]:
    return [name for name in table if pd.api.types.is_numeric_dtype(table[name]) and table[name].notna().any()]


def row_of(table: pd.DataFrame, number: int) -> str:
    return ",".join(f"{key}={table[key].iloc[number]}" for key in key_columns(table))


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(("name", "cells"), [("table_1", 2 * 16), ("table_A5_A9_own_circuits", 2 * 16)])
def test_every_number_of_the_faithfulness_tables_goes_back_to_dataset_and_weights(run, name, cells, form):
    file = run / "tables" / f"{name}.{form}"
    table = read_table(file)
    told = 0
    for _, row in table.iterrows():
        for column in numeric_columns(table):
            found = explain(file, f"circuit_of={row['circuit_of']},model={row['model']}", column)
            assert found["value"] == row[column]
            assert {each["split"] for each in found["datasets"]} == {"discovery", "means", "minimality", "evaluation"}
            files = {each["path"]: each["sha256"] for model in found["models"] for each in model["files"]}
            needed = {row["model"], row["circuit_of"], "mini-llama"}  # the base: an adapter is opened on it
            assert {model["name"] for model in found["models"]} == needed
            for model in found["models"]:
                assert model["weights"] == WEIGHTS[model["name"]]
            assert all(file_sha256(path) == sha256 for path, sha256 in files.items())
            evaluation = pd.read_parquet(found["formula"]["counted_in"])
            right = evaluation[evaluation["condition"] == "circuit"]["correct"].sum()
            assert found["formula"]["counts"]["circuit"] == right == row["n_correct_circuit"]
            told += 1
    assert told == cells


@pytest.mark.parametrize(
    "column", ["full_model", "circuit", "random_circuit", "faithfulness", "n_correct_random_circuit"]
)
def test_the_formula_gives_the_number_when_it_is_worked_out(run, column):
    for model in ("mini-llama", "mini-goat"):
        found = explain(TABLE_1, model, column)
        assert eval(found["formula"]["words"].split(" = ")[-1].replace("x", "*")) == pytest.approx(found["value"])


def test_the_end_of_an_interval_says_how_it_was_made(run):
    low = explain(TABLE_1, "mini-goat", "faithfulness_low")["formula"]["words"]
    assert low.startswith("lower end of the 95 % interval over 200 resamples of its 16 scenes, seed 20, of F(C)/F(M)")
    exact = explain(TABLE_1, "mini-goat", "full_model_low")
    assert "exact binomial bound of its 16 scenes" in exact["formula"]["words"]
    assert exact["value"] == pytest.approx(0.025 ** (1 / 16))


def test_any_number_of_any_table_has_a_chain(run):
    files = sorted((run / "tables").glob("*.parquet"))
    assert len(files) == 13
    for file in files:
        table = read_table(file)
        number = len(table) - 1
        for column in numeric_columns(table)[:2] or [table.columns[-1]]:
            found = explain(file, row_of(table, number), column)
            assert found["jobs"][0]["outputs"][0]["path"] == f"{RUN}/tables/{file.stem}.csv"
            assert found["datasets"], file
            assert found["printed"], "the printed table has the same rows"


def test_the_printed_cell_is_found_under_its_title_in_any_table(run):
    table = read_table(run / "tables" / "table_cmap.parquet")
    found = explain(run / "tables" / "table_cmap.csv", row_of(table, 0), "gain")
    assert printed_cell(found) == found["printed"]["gain"]


def test_every_job_of_the_chain_is_told_once_with_what_it_read_and_wrote(run):
    found = explain(TABLE_1, "mini-goat", "faithfulness")
    jobs = {(job["rule"], *job["wildcards"].values()) for job in found["jobs"]}
    assert len(jobs) == len(found["jobs"])
    assert {("evaluate_circuit", "mini-llama", "mini-goat"), ("minimality", "mini-llama")} < jobs
    assert ("evaluate_circuit", "mini-llama", "mini-llama") not in jobs, "it is behind another row"
    assert not {rule for rule, *_ in jobs} & {"cmap", "dcm", "completeness"}
    for job in found["jobs"]:
        record = json.loads(Path(job["record"]).read_text())
        assert (job["code"], job["git"]) == (record["code"]["version"], record["git"])
        assert [file["sha256"] for file in job["inputs"]] == [file["sha256"] for file in record["inputs"]]
        assert job["device"] == "cpu" and job["started"] and job["wall_seconds"] is not None


def test_the_command_prints_a_tree_and_the_same_as_json(finished):
    arguments = ["explain", TABLE_1, "--row", "mini-goat", "--column", "faithfulness"]
    printed = mechdiff(finished, *arguments)
    assert printed.returncode == 0, printed.stderr
    lines = printed.stdout.splitlines()
    found = json.loads(mechdiff(finished, *arguments, "--json").stdout)
    assert lines[0] == f"{TABLE_1}: faithfulness of model=mini-goat"
    assert lines[1] == f"  exact    {found['value']} [{found['low']}, {found['high']}], n = 16"
    assert lines[2] == f"  printed  {found['printed']['Faithfulness']}"
    assert [line for line in lines if line.startswith("[1] table_1")] and "  [2] evaluate_circuit" in printed.stdout
    for job in found["jobs"]:
        assert sum(line.lstrip().startswith(f"[{job['job']}] ") for line in lines) == 1
    sha256 = file_sha256(finished / BASE / "model.safetensors")
    assert f"    {BASE}/model.safetensors  {sha256[:12]}  1280184 bytes  weights" in lines


@pytest.mark.parametrize(
    ("table", "row", "column", "line"),
    [
        (TABLE_1, "mini-goa", "n", f"{TABLE_1}: no row 'mini-goa'; allowed: mini-llama; mini-goat"),
        (TABLE_1, "mini-goat", "faith", f"{TABLE_1}: no column 'faith'; allowed: circuit_of, model, "),
        (TABLE_1, "modle=mini-goat", "n", f"{TABLE_1}: no column 'modle'; allowed: circuit_of, model, "),
        (TABLE_1, "circuit_of=mini-llama", "n", f"{TABLE_1}: 'circuit_of=mini-llama' is 2 rows; allowed: mini-llama; "),
        (f"{RUN}/tables/table_1.md", "mini-goat", "n", f"{RUN}/tables/table_1.md: no table that can be read exactly"),
        (f"{RUN}/tables/table_2.csv", "mini-goat", "n", f"{RUN}/tables/table_2.csv: no such file; allowed: a table of"),
        ("config/test.yaml", "mini-goat", "n", "config/test.yaml: no manifest.json above it; allowed: a table of a"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(finished, table, row, column, line):
    done = mechdiff(finished, "explain", table, "--row", row, "--column", column)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith(f"mechdiff: {line}") and done.stderr.count("\n") == 1


def test_a_changed_file_of_the_chain_is_named(finished, tmp_path):
    folder = copy_of(finished, tmp_path / "copy")
    for file in (f"{RUN}/dataset/evaluation.parquet", f"{RUN}/path_patching/mini-llama/D.0.parquet", TABLE_1):
        original = (folder / file).read_bytes()
        (folder / file).write_bytes(original[:-1])
        with pytest.raises(InputError, match=f"^{file}: does not match its recorded sha256"):
            explain(folder / TABLE_1, "mini-goat", "faithfulness")
        (folder / file).write_bytes(original)


def test_a_forged_number_is_found_even_where_every_record_was_forged_with_it(finished, tmp_path):
    folder = copy_of(finished, tmp_path / "copy")
    forge(folder, "mini-goat", 0.99)
    done = mechdiff(folder, "audit", "results")
    assert done.returncode == 0, "the records agree with each other; only a digest kept elsewhere tells"
    done = mechdiff(folder, "explain", TABLE_1, "--row", "mini-goat", "--column", "faithfulness")
    assert done.returncode == 1
    file = f"{RUN}/evaluation/mini-llama/mini-goat.parquet"
    assert done.stderr == (
        "mechdiff: faithfulness of the circuit of mini-llama in mini-goat is 0.99,"
        f" but the right answers in {file} give 0.875\n"
    )
