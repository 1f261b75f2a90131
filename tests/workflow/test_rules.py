"""Every rule is run by a test, as a user runs it: by Snakemake, to its end."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from mechdiff.organisms.files import read_family
from mechdiff.running import config as configuration
from micro import ROOT
from small_run import snakemake

RULES = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
NAMES = {name for file in RULES for name in re.findall(r"^rule (\w+):", file.read_text(), flags=re.MULTILINE)}
SCRIPTS = {file.stem for file in (ROOT / "workflow" / "scripts").glob("*.py")}
TARGETS = {"all", "train_family"}  # name files; the finished run is the one's, the short family the other's
MEMBERS = read_family(ROOT / "config" / "family.yaml")["fine_tuned"]


def records(folder: Path) -> list[dict]:
    return [json.loads(file.read_text()) for file in (folder / "results").rglob("*.record.json")]


def test_every_rule_is_run_and_every_script_is_a_rules(finished, trained, sharded, fetched):
    assert SCRIPTS | TARGETS == NAMES
    run = {record["rule"] for folder in (finished, trained, sharded, fetched) for record in records(folder)}
    assert (finished / "results/test/manifest.json").exists()
    assert SCRIPTS - run == {"seal_run"}, "the manifest is its record"


def test_the_members_that_the_rules_train_are_those_of_the_family_file():
    adapters = {name: settings["adapter"] is not None for name, settings in MEMBERS.items()}
    assert {"mini-llama": False} | adapters == configuration.MEMBERS


def test_the_family_is_trained_and_a_run_on_it_trains_it_first(trained):
    made = {record["wildcards"]["member"] for record in records(trained) if record["rule"].startswith("fine_tune")}
    assert made == set(MEMBERS)
    check = json.loads((trained / "results/test/models/mini-goat/check.record.json").read_text())
    weights = "results/family/seed0/mini-goat/adapter_model.safetensors"
    assert weights in [file["path"] for file in check["inputs"]]


def test_the_readmes_other_seed_trains_its_family_first(trained):
    (line,) = re.findall(r"^ +(sed .*)$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    subprocess.run(line, shell=True, cwd=trained, check=True)
    done = snakemake(trained, "-n", "--configfile", "seed1.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    planned = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, flags=re.MULTILINE))
    adapters = sum(settings["adapter"] is not None for settings in MEMBERS.values())
    trainings = {"train_base": 1, "fine_tune": len(MEMBERS) - adapters, "fine_tune_adapter": adapters}
    assert {rule: int(planned[rule]) for rule in trainings} == trainings


def test_what_shards_of_minimality_count_is_what_the_circuit_is_pruned_by(sharded):
    (pruned,) = [r for r in records(sharded) if r["rule"] == "minimality" and r["wildcards"]["model"] == "mini-llama"]
    shards = [file["path"] for file in pruned["inputs"] if "/pairs." in file["path"]]
    assert shards == [f"results/test/minimality/mini-llama/pairs.{shard}.parquet" for shard in range(2)]
