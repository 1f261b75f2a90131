"""The workflow as a user runs it: real snakemake processes on the test-size config."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file

from mechdiff.audit import audit
from mechdiff.checkpoints import checkpoint_files
from mechdiff.errors import InputError
from micro import ROOT

CONFIG = "config/test.yaml"


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run in a folder that has its own config/ and resources/, with the project's Snakefile."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def new_folder(path: Path) -> Path:
    shutil.copytree(ROOT / "config", path / "config")
    shutil.copytree(ROOT / "resources", path / "resources")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with a finished test-size run; tests must leave it as it is."""
    folder = new_folder(tmp_path_factory.mktemp("run") / "first")
    done = snakemake(folder, "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Table 1: the entity-tracking circuit found in mini-llama" in done.stdout, "printed at the end"
    return folder


def planned(folder: Path, *arguments: str) -> set[str]:
    """What a run would do now, as the rules' messages say it."""
    done = snakemake(folder, "-n", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"^Job \d+: (.*)$", done.stdout + done.stderr, flags=re.MULTILINE))


def changed(folder: Path, tmp_path: Path, change) -> set[str]:
    config = yaml.safe_load((folder / CONFIG).read_text())
    change(config)
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return planned(folder, "--configfile", str(tmp_path / "changed.yaml"))


def test_a_second_run_does_nothing(finished):
    assert planned(finished, "--configfile", CONFIG) == set()


def test_the_chain_of_a_run_is_complete_and_its_audit_passes(finished):
    (found,) = audit(finished / "results").values()
    records = {path.name for path in (finished / "results").rglob("*.record.json")}
    manifest = json.loads((finished / "results/test/manifest.json").read_text())
    assert found.jobs == len(manifest["records"]) == 4 + 2 * 9 + 3, "splits, nine jobs a model, tables"
    assert {Path(path).name for path in manifest["records"]} == records


def test_the_same_seed_gives_byte_identical_tables(finished, tmp_path):
    again = new_folder(tmp_path / "again")
    done = snakemake(again, "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    tables = sorted(p.relative_to(finished) for p in (finished / "results/test/tables").iterdir())
    compared = [table for table in tables if not table.name.endswith(".record.json")]
    assert len(compared) == 3 * 4
    for table in compared:
        assert (again / table).read_bytes() == (finished / table).read_bytes(), table


EVALUATION = {"Circuit of mini-llama in mini-llama", "Circuit of mini-llama in mini-goat"}
TABLES = {"Table 1", "Table of heads", "Table of planted against found heads", "Seal the records of the run"}


def test_more_kept_heads_of_one_group_rerun_its_circuits_and_no_path_patching(finished, tmp_path):
    jobs = changed(finished, tmp_path, lambda c: c["plan"][1].update(keep=3))
    redone = {
        f"{model}: {what}" for model in ("mini-llama", "mini-goat") for what in ("select candidates", "minimality")
    }
    assert jobs == redone | EVALUATION | TABLES


def test_more_receivers_of_one_group_rerun_that_circuits_later_groups_and_what_follows(finished, tmp_path):
    jobs = changed(finished, tmp_path, lambda c: c["plan"][1].update(per_model={"mini-llama": {"receivers": 2}}))
    later = {"path patching, group C", "path patching, group D", "select candidates", "minimality"}
    assert jobs == {f"mini-llama: {what}" for what in later} | EVALUATION | TABLES


def test_a_fine_tuned_models_own_counts_leave_the_base_circuit_alone(finished, tmp_path):
    jobs = changed(finished, tmp_path, lambda c: c["plan"][2].update(per_model={"mini-goat": {"keep": 3}}))
    assert jobs == {"mini-goat: select candidates", "mini-goat: minimality"} | TABLES - {"Table 1"}


def test_another_number_of_random_circuits_reruns_the_evaluation_alone(finished, tmp_path):
    jobs = changed(finished, tmp_path, lambda c: c["evaluation"].update(random_circuits=3))
    assert jobs == EVALUATION | {"Table 1", "Seal the records of the run"}


def test_more_evaluation_rows_redo_the_evaluation_alone(finished, tmp_path):
    jobs = changed(finished, tmp_path, lambda c: c["dataset"]["rows"].update(evaluation=20))
    assert jobs == {"Generate the dataset: evaluation", "Table 1", "Seal the records of the run"} | EVALUATION


def test_a_group_may_be_renamed_without_computing_anything_again(finished, tmp_path):
    jobs = changed(finished, tmp_path, lambda c: c["plan"][0].update(name="Fetcher"))
    assert jobs == {"Table of heads", "Seal the records of the run"}


def test_a_job_done_again_is_sealed_again(finished, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(finished, folder)
    again = snakemake(folder, "results/test/dataset/evaluation.parquet", "--force", "--configfile", CONFIG)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Seal the records of the run" in planned(folder, "--configfile", CONFIG)


def test_a_plan_may_add_groups_and_reorder_them(finished, tmp_path):
    def keys_too(config):
        a, b, c, d = config["plan"]
        keys = {"group": "K", "name": "Key Writer", "position": "query_label", "receiver": "B", "via": "k", "keep": 2}
        config["plan"] = [a, b, keys, c, d]

    jobs = changed(finished, tmp_path, keys_too)
    assert {"mini-llama: path patching, group K", "mini-goat: path patching, group K"} <= jobs
    assert not any("path patching, group A" in job or "group D" in job for job in jobs)


def test_other_weights_redo_everything_of_that_model(finished, tmp_path):
    folder = tmp_path / "retrained"
    shutil.copytree(finished, folder)
    weights = folder / "resources/models/mini-goat/adapter_model.safetensors"
    values = load_file(weights)
    save_file({name: value * 2 for name, value in values.items()}, weights)
    jobs = planned(folder, "--configfile", CONFIG)
    steps = {"check shape, tokenizer and null patch", "mean activations", "select candidates", "minimality"}
    steps |= {f"path patching, group {group}" for group in "ABCD"}
    assert jobs == {f"mini-goat: {step}" for step in steps} | {"Circuit of mini-llama in mini-goat"} | TABLES


def test_a_part_of_a_run_can_be_asked_for(tmp_path):
    folder = new_folder(tmp_path / "part")
    done = snakemake(folder, "results/test/dataset/means.parquet", "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Table 1" not in done.stdout


def test_every_row_of_every_table_is_there(finished):
    tables = finished / "results/test/tables"
    assert pd.read_csv(tables / "table_1.csv")["model"].tolist() == ["mini-llama", "mini-goat"]
    assert len(pd.read_csv(tables / "table_heads.csv")) == 2 * 4
    assert len(pd.read_csv(tables / "table_planted.csv")) == 2 * 2 * 4
    scores = pd.read_parquet(finished / "results/test/path_patching/mini-goat/C.parquet")
    assert {"model", "group", "layer", "head", "score", "stderr", "n"} <= set(scores.columns)


def one_of_each_kind(folder: Path) -> list[str]:
    """One model's files of every rule, and what no rule made: weights, object list, planted heads."""
    run = folder / "results/test"
    files = [p for p in sorted(run.rglob("*")) if p.is_file() and "logs" not in p.parts]
    inputs = [
        *checkpoint_files("resources/models/mini-goat", "resources/models/mini-llama"),
        "config/objects.txt",
        "config/family.yaml",
    ]
    own = [p for p in files if "mini-goat" in str(p) or "mini-llama" not in str(p)]
    return [str(p.relative_to(folder)) for p in own] + inputs


def test_the_audit_names_the_file_in_which_one_bit_flipped(finished, tmp_path, monkeypatch):
    folder = tmp_path / "tampered"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns(".snakemake"))
    monkeypatch.chdir(folder)
    files = one_of_each_kind(folder)
    assert {Path(f).suffix for f in files} >= {
        ".parquet",
        ".json",
        ".safetensors",
        ".csv",
        ".md",
        ".tex",
        ".txt",
        ".yaml",
    }
    for name in files:
        file = Path(name)
        original = file.read_bytes()
        at = len(original) // 2
        file.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
        with pytest.raises(InputError) as caught:
            audit("results")
        assert str(caught.value).startswith(f"{name}: "), name
        file.write_bytes(original)
    audit("results")


def test_the_audit_command_prints_one_line_and_its_status(finished):
    command = [sys.executable, "-m", "mechdiff", "audit", "results"]
    done = subprocess.run(command, cwd=finished, capture_output=True, text=True)
    assert done.returncode == 0 and "files of 25 jobs match their records" in done.stdout
    done = subprocess.run([*command[:-1], "config"], cwd=finished, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "mechdiff: config: no manifest.json in it, so no finished run to audit\n"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c["plan"][0].update(keep=25), "plan.0.keep: 25 for mini-llama; allowed: at most its 24 heads"),
        (lambda c: c.update(memory="much"), "memory: 'much' is not allowed; allowed: a value of type integer"),
    ],
)
def test_a_bad_config_stops_before_any_job_with_one_line(tmp_path, change, line):
    folder = new_folder(tmp_path / "bad")
    config = yaml.safe_load((folder / CONFIG).read_text())
    change(config)
    (folder / "bad.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    done = snakemake(folder, "--configfile", "bad.yaml")
    assert done.returncode == 1
    assert [text for text in done.stderr.splitlines() if "profile" not in text] == [f"mechdiff: config: {line}"]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("model", "weights", "kept_share"),
    [("mini-llama", "model.safetensors", 0.5), ("mini-goat", "adapter_model.safetensors", 0)],
)
def test_a_damaged_checkpoint_stops_its_job_with_one_line(tmp_path, model, weights, kept_share):
    folder = new_folder(tmp_path / "damaged")
    file = folder / "resources/models" / model / weights
    file.write_bytes(file.read_bytes()[: int(kept_share * file.stat().st_size)])
    check = f"results/test/models/{model}/check.json"
    done = snakemake(folder, check, "--configfile", CONFIG)
    printed = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"mechdiff: resources/models/{model}/{weights}: model '{model}' cannot be opened" in printed
    assert "Traceback" not in printed
    assert not (folder / check).exists()
