"""What a run's RO-Crate says of models, from records written by hand. Real crates: workflow/test_crate.py."""

import copy
import json
from typing import Any

import pytest

from mechdiff.provenance.crate import describe
from mechdiff.provenance.crate_files import gather
from mechdiff.running.config import checked
from micro import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FETCHED = f"results/checkpoints/owner--name/{COMMIT}"
RECORD: dict[str, Any] = {
    "mechdiff": "0.1.0",
    "wildcards": {},
    "params": {"seed": 20, "code": "c"},
    "code": {"version": "c", "modules": {}},
    "environment": {"python": "3.11.7", "packages": {"snakemake": "9.27.1"}, "device": "cpu", "threads": 1},
    "git": None,
    "started": "2026-01-02T03:04:05+00:00",
    "wall_seconds": 61.2,
}
RECORD["environment"]["platform"] = "Linux"


def described(path: str) -> dict:
    return {"path": path, "sha256": f"sha of {path}", "bytes": len(path)}


def crate_of(config: dict, tmp_path, monkeypatch) -> dict[str, dict]:
    """A run of two jobs: fetch -> weights -> generate -> table."""
    monkeypatch.chdir(tmp_path)
    made = {"results/r/check.record.json": ("check_model", [f"{FETCHED}/model.safetensors"], ["results/r/check.json"])}
    made[f"{FETCHED}.record.json"] = ("fetch_model", [], [f"{FETCHED}/config.json", f"{FETCHED}/model.safetensors"])
    records = {}
    for name, (rule, inputs, outputs) in made.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        records[name] = copy.deepcopy(RECORD) | {"rule": rule}
        records[name] |= {"inputs": [described(p) for p in inputs], "outputs": [described(p) for p in outputs]}
        file.write_text(json.dumps(records[name]))
    gathered = gather("results/r", records, config, tmp_path / "results/r")
    entities = json.loads(describe("results/r", records, config, gathered))["@graph"]
    return {entity["@id"]: entity for entity in entities}


@pytest.fixture
def config(monkeypatch) -> dict:
    monkeypatch.chdir(ROOT)
    return checked({"run": "r", "models": {"base": {"hub": "owner/name", "revision": COMMIT}}})


def test_a_model_of_the_hub_is_known_by_its_commit_and_its_files_by_their_address(config, tmp_path, monkeypatch):
    entities = crate_of(config, tmp_path, monkeypatch)
    model, address = entities["#model/base"], f"https://huggingface.co/owner/name/resolve/{COMMIT}"
    assert (model["version"], model["url"]) == (COMMIT, "https://huggingface.co/owner/name")
    assert [part["@id"] for part in model["hasPart"]] == [f"{address}/config.json", f"{address}/model.safetensors"]
    weights = entities[f"{address}/model.safetensors"]
    assert model["mainEntity"] == {"@id": weights["@id"]}
    assert weights["sha256"] == f"sha of {FETCHED}/model.safetensors"
    assert entities["#job/check"]["object"][0] == entities[f"#job/{FETCHED}"]["result"][1] == {"@id": weights["@id"]}


def test_a_job_ends_when_its_record_says(config, tmp_path, monkeypatch):
    job = crate_of(config, tmp_path, monkeypatch)["#job/check"]
    assert (job["startTime"], job["endTime"]) == ("2026-01-02T03:04:05+00:00", "2026-01-02T03:05:06+00:00")


def test_nobody_is_named_unless_the_config_does(config, tmp_path, monkeypatch):
    entities = crate_of(config, tmp_path, monkeypatch)
    assert not any("agent" in entity for entity in entities.values()) and "author" not in entities["./"]
    assert entities["./"]["license"] == {"@id": "https://spdx.org/licenses/MIT"}


@pytest.mark.parametrize(
    ("url", "kind"), [("https://orcid.org/0000-0001", "Person"), ("https://e.org", "Organization")]
)
def test_who_ran_it_is_agent_author_and_publisher(config, tmp_path, monkeypatch, url, kind):
    config["crate"] = {"agent": {"name": "N", "url": url}, "license": "https://e.org/licence"}
    entities = crate_of(config, tmp_path, monkeypatch)
    assert entities[url] == {"@id": url, "@type": kind, "name": "N", "url": url}
    actions = [entity for entity in entities.values() if entity["@type"] in ("CreateAction", "OrganizeAction")]
    assert len(actions) == 4 and all(action["agent"] == {"@id": url} for action in actions)
    assert entities["./"]["author"] == entities["./"]["publisher"] == {"@id": url}
