"""Whole runs on models of other families, and on an adapter beside the model that it makes when merged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import peft
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from families import tiny
from mechdiff.provenance.archive import archive, audit_archive
from mechdiff.provenance.audit import audit
from mechdiff.provenance.explain import explain
from micro import ROOT

pytestmark = pytest.mark.whole_run
# Of a random model, which is right no more often than by chance: all experiments are made all the same.
CONFIG = """\
run: other
least_accuracy: 0
dataset: { rows: { discovery: 4, means: 4, minimality: 4, evaluation: 4 } }
desiderata: { rows: { train: 8, validation: 4, test: 4 }, sets: 2 }
dcm: { batch_size: 8 }
stability: { resamples: 100 }
completeness: { random_subsets: 2 }
evaluation: { random_circuits: 1, resamples: 100 }
models:
  base:
    path: base
  tuned:
    path: tuned
    base: base
"""


def run_in(folder: Path, config: str, *targets: str) -> Path:
    """A whole run, or what some targets need, in a folder with nothing of the product; returns that of its results."""
    (folder / "my.yaml").write_text(config)
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2"]
    done = subprocess.run(
        [*command, *targets, "--configfile", "my.yaml"], cwd=folder, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results" / yaml.safe_load(config)["run"]


@pytest.mark.parametrize(
    "family", ["gemma2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "gpt_neox"))]
)
def test_a_checkpoint_of_another_family_goes_through_everything(family, tokenizer, tmp_path):
    assert len(CONFIG.splitlines()) <= 15
    size = {"vocab_size": tokenizer.get_vocab_size()}
    for seed, name in enumerate(("base", "tuned")):
        tiny(family, seed=seed, **size).save_pretrained(tmp_path / name)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(tmp_path / name)
    results = run_in(tmp_path, CONFIG)
    assert audit(results)
    archive(results, tmp_path / "run.zip")
    (packed,) = audit_archive(tmp_path / "run.zip").values()
    product = {str(ROOT / file) for file in ("config/objects.txt", "resources/paper.yaml")}
    assert product < {file["path"] for file in packed.outside}, "what the product ships is not in this folder"
    heads = pd.read_csv(results / "tables" / "table_A2_A3_A7_heads.csv")
    assert set(heads["group"]) == set("ABCD") and set(heads["circuit_of"]) == {"base", "tuned"}
    assert len(pd.read_csv(results / "tables" / "table_1.csv")) == 2


def test_an_adapter_and_the_model_that_it_makes_have_the_same_tables(tmp_path):
    shipped = ROOT / "resources" / "models"
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(shipped / "mini-llama")
    merged = peft.PeftModel.from_pretrained(base, shipped / "mini-goat").merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    config = yaml.safe_load((ROOT / "config" / "test.yaml").read_text())
    config |= {"task": {}, "planted": str(ROOT / "config" / "family.yaml")}
    config["models"] = {
        "base": {"path": str(shipped / "mini-llama")},
        "adapter": {"path": str(shipped / "mini-goat"), "base": "base", "adapter": True},
        "merged": {"path": "merged", "base": "base"},
    }
    names = ("table_1", "table_A2_A3_A7_heads", "table_dcm", "table_activation_patching", "table_cmap")
    targets = [f"results/{config['run']}/tables/{name}.md" for name in names]
    tables = run_in(tmp_path, yaml.safe_dump(config, sort_keys=False), *targets) / "tables"
    for name in names:
        lines = [line for line in (tables / f"{name}.md").read_text().splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line.split("|")] for line in lines]
        swapped = [[{"adapter": "merged", "merged": "adapter"}.get(cell, cell) for cell in row] for row in rows]
        assert sorted(rows) == sorted(swapped) and ["adapter" in row for row in rows].count(True), name


def test_what_nothing_reaches_is_said_everywhere_and_everything_else_still_runs(tokenizer, tmp_path):
    """In the base queries do not matter, so that nothing reaches group A; the other's heads hear nothing at all."""
    for seed, (name, silent) in enumerate({"base": ["k_proj"], "tuned": ["v_proj.weight"]}.items()):
        network = tiny("qwen2", seed=seed, vocab_size=tokenizer.get_vocab_size())
        with torch.no_grad():
            for key, weight in network.named_parameters():
                weight.mul_(not any(part in key for part in silent))
        network.save_pretrained(tmp_path / name)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(tmp_path / name)
    results = run_in(tmp_path, CONFIG)
    assert audit(results)
    heads = pd.read_csv(results / "tables" / "table_A2_A3_A7_heads.csv").set_index(["circuit_of", "group"])
    receivers = {"A": "the logits", "B": "A", "C": "B", "D": "C"}
    for (model, group), row in heads.iterrows():
        reached = (model, group) == ("base", "A")
        assert (row["candidates"] > 0) == reached
        assert reached or row["enumerated"].startswith(f"nothing reaches {receivers[group]}: ")
        assert reached or row["heads"] == row["unstable"] == 0
    changes = pd.read_parquet(results / "path_patching" / "base" / "C.0.parquet")
    assert len(changes) == 4 and (changes == 0).all(axis=None), "without receivers nothing is run"
    own = pd.read_csv(results / "tables" / "table_A5_A9_own_circuits.csv")
    assert set(own["circuit_of"]) == {"tuned"} and set(own["note"]) == {"no circuit: no group has heads"}
    assert explain(results / "tables" / "table_A5_A9_own_circuits.csv", "model=base", "circuit")["value"] is None
    pages = {
        "A": (
            "verdict/verdict.md",
            "tables/table_1.md",
            "figures/figure_1_circuit.svg",
            "figures/figure_3_functions.rst",
        ),
        "the logits": ("verdict/verdict.html", "tables/table_dcm.md", "figures/figure_4_cmap.rst"),
    }
    for receiver, files in pages.items():
        for file in files:
            assert f"nothing reaches {receiver}" in (results / file).read_text(), file
