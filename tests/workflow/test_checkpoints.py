"""Models as the workflow meets them: fetched from a hub, described in a few lines, and damaged."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import small_run
from hub_server import COMMIT, HUB
from micro import ROOT

SHIPPED = ROOT / "resources" / "models"
SHORT = {"dataset": {"rows": {"discovery": 4}}}


def snakemake(folder: Path, config: dict, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    """Run on a config of its own, in a folder with nothing of the product."""
    (folder / "my.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), *arguments, "--cores", "2"]
    return subprocess.run(
        [*command, "--configfile", "my.yaml"],
        cwd=folder,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_model_of_the_hub_is_fetched_in_shards_checked_and_recorded(fetched):
    stored, folder = fetched / "stored", f"results/checkpoints/owner--tiny/{COMMIT}"
    assert len(list(stored.glob("model-*.safetensors"))) > 1
    record = json.loads((fetched / f"{folder}.record.json").read_text())
    assert record["params"]["model"]["hub"] == HUB and record["params"]["revision"] == COMMIT
    files = {file["path"]: file["sha256"] for file in record["outputs"]}
    assert set(files) == {f"{folder}/{name.name}" for name in stored.iterdir()}
    read = json.loads((fetched / "results/r/models/tiny/check.record.json").read_text())["inputs"]
    assert files.items() <= {file["path"]: file["sha256"] for file in read}.items()
    shutil.rmtree(fetched / "home")
    checks = [f"results/r/models/{name}/check.json" for name in ("tiny", "tuned")]
    again = small_run.snakemake(
        fetched, *checks, "--configfile", "my.yaml", HF_HOME=str(fetched / "home"), HF_HUB_OFFLINE="1"
    )
    assert "Nothing to be done" in again.stdout + again.stderr


def test_a_hub_that_cannot_be_reached_is_one_line_and_nothing_is_left(tmp_path):
    config = {"run": "r", "models": {"tiny": {"hub": HUB, "revision": COMMIT}}}
    env = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = snakemake(tmp_path, config, "results/r/models/tiny/check.json", **env)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mechdiff: ")]
    assert line.startswith(
        f"mechdiff: models.tiny.hub: {HUB} at {COMMIT} is neither in {tmp_path}/home/hub nor to be had"
    )
    assert {path.name for path in (tmp_path / "results/checkpoints").iterdir()} <= {"logs", "owner--tiny"}
    assert not list((tmp_path / "results").rglob("*.json"))


def test_two_checkpoints_are_a_config(tmp_path):
    """The default plan and settings do for the rest."""
    models = {
        "base": {"path": str(SHIPPED / "mini-llama")},
        "tuned": {"path": str(SHIPPED / "mini-float"), "base": "base"},
    }
    done = snakemake(tmp_path, {"run": "short", "models": models}, "-n")
    assert len((tmp_path / "my.yaml").read_text().splitlines()) <= 15
    assert done.returncode == 0, done.stdout + done.stderr
    for rule, count in (("path_patching", 8), ("cmap", 1), ("verdict", 1)):
        assert re.search(rf"^{rule} +{count}$", done.stdout + done.stderr, flags=re.MULTILINE)


def changed(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def not_finite(folder):
    changed(folder, lambda w: w["model.layers.2.mlp.up_proj.weight"].fill_(float("nan")))


def other_shape(folder):
    changed(folder, lambda w: w.update({"model.norm.weight": torch.ones(63)}))


def without_a_token(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["ĠBax"] = vocabulary.pop("ĠBox")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def wide_adapter(folder):
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"r": 8}))


BAD = {
    "truncated": (truncated, r"bad/truncated/model\.safetensors: model 'truncated' cannot be opened \(Error while d"),
    "not-finite": (not_finite, r"bad/not-finite/model\.safetensors: model\.layers\.2\.mlp\.up_proj\.weight has values"),
    "other-shape": (other_shape, r"\(other shape: model\.norm\.weight is \[63\], its config asks for \[64\]\)"),
    "no-token": (without_a_token, r"bad/no-token/tokenizer\.json: has no token 'ĠBox' for 'The "),
    "wide": (wide_adapter, r"bad/wide/adapter_model\.safetensors: model 'wide' cannot be opened \(other shape: "),
}


def test_a_bad_checkpoint_stops_at_its_check_with_one_line_and_leaves_nothing(tmp_path):
    models: dict[str, dict] = {"base": {"path": str(SHIPPED / "mini-llama")}}
    for name, (damage, _) in BAD.items():
        shutil.copytree(SHIPPED / ("mini-goat" if name == "wide" else "mini-float"), tmp_path / "bad" / name)
        damage(tmp_path / "bad" / name)
        models[name] = {"path": f"bad/{name}", "base": "base", "adapter": name == "wide"}
    checks = [f"results/r/models/{name}/check.json" for name in models]
    done = snakemake(tmp_path, {"run": "r", "models": models} | SHORT, "--keep-going", *checks)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("mechdiff: ")]
    assert len(lines) == len(BAD)
    for _, expected in BAD.values():
        assert [line for line in lines if re.search(expected, line)], expected
    assert [str(p.relative_to(tmp_path)) for p in (tmp_path / "results/r/models").rglob("check.json")] == checks[:1]


def without_a_shard(folder):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="300KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    next(folder.glob("model-00001-*")).unlink()


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_code(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Own"}})
    )


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (
            without_a_shard,
            r"models\.tuned\.path: tuned has no model-00001-of-\d+\.safetensors; allowed: a folder that has",
        ),
        (pickled, r"models\.tuned\.allow_pickle: false, but tuned has its weights in pytorch_model\.bin; allowed: "),
        (with_code, r"models\.tuned\.trust_remote_code: false, but tuned brings its own code; allowed: "),
    ],
)
def test_what_shows_without_opening_a_checkpoint_stops_the_run_before_any_job(tmp_path, damage, line):
    shutil.copytree(SHIPPED / "mini-float", tmp_path / "tuned")
    damage(tmp_path / "tuned")
    models = {"base": {"path": str(SHIPPED / "mini-llama")}, "tuned": {"path": "tuned", "base": "base"}}
    done = snakemake(tmp_path, {"run": "r", "models": models})
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    (found,) = [text for text in done.stderr.splitlines() if "profile" not in text]
    assert re.match(f"mechdiff: config: {line}", found)
    assert not (tmp_path / "results").exists()
