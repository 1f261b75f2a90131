"""One finished run for all tests of the workflow, and the runs of what it leaves out."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from transformers import AutoModelForCausalLM

from hub_server import COMMIT, HUB, serving
from micro import ROOT
from small_run import CONFIG, new_folder, new_project, short_family, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder with a finished test-size run; tests must leave it as it is.

    Where pytest runs in several processes the first to need the run makes it, and the others wait for it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all processes
    folder = shared / "finished"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            part = new_folder(shared / "finished.part")
            done = snakemake(part, "--configfile", CONFIG)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "Table 1: the entity-tracking circuit found in mini-llama" in done.stdout, "printed at the end"
            assert ".record.json" not in done.stdout + done.stderr, "nor what only the audit needs to name"
            part.rename(folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A clone in which a short family was trained again, and one of its members checked for a run of its own."""
    folder = new_project(tmp_path_factory.mktemp("family") / "clone")
    family = folder / "config" / "family.yaml"
    family.write_text(yaml.safe_dump(short_family(yaml.safe_load(family.read_text())), sort_keys=False))
    config = (folder / "config" / "test.yaml").read_text().replace("resources/models", "results/family/seed0")
    (folder / "seed0.yaml").write_text(config)
    check = "results/test/models/mini-goat/check.json"
    done = snakemake(folder, "train_family", check, "--configfile", "seed0.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def sharded(finished, tmp_path_factory) -> Path:
    """The finished run with more examples for minimality, whose pairs two jobs count; the base's circuit alone."""
    folder = tmp_path_factory.mktemp("sharded") / "two"
    shutil.copytree(finished, folder)
    config = yaml.safe_load((folder / CONFIG).read_text()) | {"shards": {"minimality": 2}}
    config["dataset"]["rows"]["minimality"] = 60
    (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    done = snakemake(folder, "results/test/minimality/mini-llama/circuit.json", "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def fetched(tmp_path_factory) -> Path:
    """A folder in which a base was fetched from a hub (``stored``: what it has) and checked with a model on it."""
    folder = tmp_path_factory.mktemp("hub")
    for file in ("config/objects.txt", "resources/paper.yaml"):
        (folder / file).parent.mkdir()
        shutil.copy(ROOT / file, folder / file)
    stored, shipped = folder / "stored", ROOT / "resources" / "models"
    AutoModelForCausalLM.from_pretrained(shipped / "mini-llama").save_pretrained(stored, max_shard_size="300KB")
    shutil.copy(shipped / "mini-llama" / "tokenizer.json", stored)
    models = {"tiny": {"hub": HUB, "revision": COMMIT}, "tuned": {"path": str(shipped / "mini-float"), "base": "tiny"}}
    config = {"run": "r", "models": models, "dataset": {"rows": {"discovery": 4}}}
    (folder / "my.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    checks = [f"results/r/models/{name}/check.json" for name in models]
    with serving(stored) as endpoint:
        env = {"HF_HOME": str(folder / "home"), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
        done = snakemake(folder, *checks, "--configfile", "my.yaml", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def with_three(finished, tmp_path_factory) -> Path:
    """The run again with three random circuits in place of two: the evaluation is redone, all else is the same."""
    folder = tmp_path_factory.mktemp("changed") / "three"
    shutil.copytree(finished, folder)
    config = folder / CONFIG
    config.write_text(config.read_text().replace("random_circuits: 2", "random_circuits: 3"))
    done = snakemake(folder, "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
