"""A run's RO-Crate against the public validator, and against the run's own records.

The validator has no network here: what RO-Crate 1.1 means by its terms (tests/data, CC0, as the package rocrate 0.13
has it) is put into its cache.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
import yaml
from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from urllib3 import HTTPResponse

from mechdiff.common.files import file_sha256
from mechdiff.provenance.crate import describe
from mechdiff.provenance.crate_files import gather
from mechdiff.provenance.records import read_record
from micro import ROOT

RUN = Path("results/test")
METADATA = "ro-crate-metadata.json"
CONTEXT = ROOT / "tests" / "data" / "ro-crate-1.1-context.jsonld"
# The profile wants software known by a web address, yet its main workflow must be a file of the crate.
NOT_OF_FILES = "The SoftwareApplication id SHOULD be an absolute URI"


class Packaged(HTTPAdapter):
    """Answers every request with the context."""

    def send(self, request, *_, **__):
        headers = {"Content-Type": "application/ld+json"}
        return self.build_response(
            request, HTTPResponse(BytesIO(CONTEXT.read_bytes()), headers, 200, preload_content=False)
        )


@pytest.fixture(scope="module")
def issues(tmp_path_factory):
    """What the validator, a process, finds wrong with a crate; it must be one that it read to the end."""
    folder = tmp_path_factory.mktemp("validator")
    with CachedSession(folder / "cache", backend="sqlite", expire_after=-1) as session:
        session.mount("https://", Packaged())
        assert session.get("https://w3id.org/ro/crate/1.1/context").json()["@context"]

    def validate(crate: Path, level: str) -> set[str]:
        command: list[str | Path] = [
            Path(sys.executable).parent / "rocrate-validator",
            "--no-interactive",
            "validate",
            crate,
            "--offline",
        ]
        command += ["--cache-path", folder / "cache", "--profile-identifier", "provenance-run-crate-0.5"]
        command += ["--requirement-severity", level, "--output-format", "json", "--output-file", folder / "found.json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        found = json.loads((folder / "found.json").read_text())
        assert found["passed"] == (done.returncode == 0) == (not found["issues"])
        assert found["statistics"]["total_checks"] >= 85 and found["skipped_checks"] == 0
        return {issue["message"] for issue in found["issues"]}

    return validate


@pytest.fixture
def crate(finished, tmp_path) -> Path:
    """A copy of the run, to be changed."""
    return shutil.copytree(finished / RUN, tmp_path / "crate")


def graph(folder: Path) -> dict[str, dict]:
    entities = json.loads((folder / METADATA).read_text())["@graph"]
    assert len({entity["@id"] for entity in entities}) == len(entities)
    return {entity["@id"]: entity for entity in entities}


def ids(value: dict | list[dict]) -> list[str]:
    return [item["@id"] for item in (value if isinstance(value, list) else [value])]


def records(finished: Path) -> dict[str, dict]:
    """The records that the crate is made of: all but its own."""
    names = json.loads((finished / RUN / "manifest.json").read_text())["records"]
    return {name: read_record(finished / name) for name in names if name != f"{RUN}/ro-crate-metadata.record.json"}


def test_the_validator_accepts_the_crate(finished, issues):
    assert issues(finished / RUN, "REQUIRED") == set()


def test_with_an_agent_every_recommendation_is_met_but_one_that_contradicts_a_requirement(
    finished, crate, issues, monkeypatch
):
    monkeypatch.chdir(finished)
    config = yaml.safe_load((RUN / "crate/config.yaml").read_text())
    config["crate"]["agent"] = {"name": "A laboratory", "url": "https://example.org"}
    shutil.rmtree(crate / "crate")
    gathered = gather(str(RUN), records(finished), config, crate)
    (crate / METADATA).write_text(describe(str(RUN), records(finished), config, gathered))
    assert issues(crate, "RECOMMENDED") == {NOT_OF_FILES}


@pytest.mark.parametrize(
    ("entity", "key", "message"),
    [
        ("./", "license", "The Root Data Entity MUST have a `license` property"),
        ("#job/tables/table_1", "instrument", "The Action MUST have an instrument property"),
        ("#control/tables/table_1", "object", "A ControlAction must reference the action representing"),
    ],
)
def test_a_crate_without_a_required_property_is_refused(crate, issues, entity, key, message):
    metadata = json.loads((crate / METADATA).read_text())
    del next(found for found in metadata["@graph"] if found["@id"] == entity)[key]
    (crate / METADATA).write_text(json.dumps(metadata))
    assert any(message in found for found in issues(crate, "REQUIRED"))


def test_a_crate_that_names_a_file_it_does_not_have_is_refused(crate, issues):
    (crate / "tables" / "table_1.csv").unlink()
    assert any("'tables/table_1.csv'" in found for found in issues(crate, "REQUIRED"))


def test_every_table_figure_and_the_verdict_is_in_it_as_it_is_on_disk(finished):
    entities = graph(finished / RUN)
    shown = [file for part in ("tables", "figures", "verdict") for file in (finished / RUN / part).iterdir()]
    assert len(shown) > 100
    for file in shown:
        entity = entities[str(file.relative_to(finished / RUN))]
        assert entity["sha256"] == file_sha256(file) and entity["contentSize"] == str(file.stat().st_size)
        assert entity["@type"] == "File" and "/" in entity["encodingFormat"] and "octet" not in entity["encodingFormat"]
    results = set(ids(entities["#run"]["result"]))
    assert results == {str(f.relative_to(finished / RUN)) for f in shown if not f.name.endswith(".record.json")}


def test_every_job_is_in_it_once_as_its_record_says(finished):
    entities = graph(finished / RUN)
    jobs = {name for name, entity in entities.items() if entity["@type"] == "CreateAction"} - {"#run"}
    steps = ids(entities["#snakemake"]["object"])
    assert len(jobs) == len(steps) == len(set(steps)) == len(records(finished))
    assert jobs == {name for step in steps for name in ids(entities[step]["object"])}
    for name, record in records(finished).items():
        (job,) = [entities[job] for job in jobs if f"{RUN}/{entities[job]['subjectOf']['@id']}" == name]
        tool = entities[job["instrument"]["@id"]]
        assert (tool["name"], tool["version"]) == (record["rule"], record["code"]["version"])
        assert job["startTime"] == record["started"] <= job["endTime"]
        used = [entities[name] for name in ids(job["object"])]
        wanted = {file["sha256"] for file in record["inputs"]}
        assert {entity["sha256"] for entity in used if entity["@type"] == "File"} == wanted
        values = {entity["name"]: entity["value"] for entity in used if entity["@type"] == "PropertyValue"}
        assert values.keys() == record["params"].keys() - {"code"}
        assert values.get("seed") == record["params"].get("seed")
        assert [entities[name]["sha256"] for name in ids(job["result"])] == [f["sha256"] for f in record["outputs"]]


def test_weights_are_named_and_not_copied(finished):
    entities = graph(finished / RUN)
    (weights,) = ids(entities["#model/mini-goat"]["mainEntity"])
    file = Path("resources/models/mini-goat/adapter_model.safetensors")
    assert weights == f"#{file}" and entities[weights]["sha256"] == file_sha256(finished / file)
    assert not list((finished / RUN).rglob(file.name))


def test_packages_and_rules_of_the_records_are_in_its_lock_file_and_graph(finished):
    lock = (finished / RUN / "crate" / "requirements.txt").read_text().splitlines()
    packages = records(finished)[f"{RUN}/tables/table_1.record.json"]["environment"]["packages"]
    assert {f"{name}=={version}" for name, version in packages.items()} <= set(lock)
    rules = (finished / RUN / "crate" / "rulegraph.dot").read_text()
    assert "  evaluate_circuit -> table_1;\n" in rules and "table_1 -> evaluate_circuit" not in rules


def test_the_same_records_give_the_same_crate(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(finished)
    config = yaml.safe_load((RUN / "crate/config.yaml").read_text())
    backwards = dict(reversed(records(finished).items()))
    gathered = gather(str(RUN), backwards, config, tmp_path)
    assert describe(str(RUN), backwards, config, gathered) == (RUN / METADATA).read_text()


def test_workflow_and_config_of_the_crate_are_the_runs(finished, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(finished / RUN / "crate" / "workflow"))
    command: list[str | Path] = [sys.executable, "-m", "snakemake", "-n", "-s", RUN / "crate/Snakefile"]
    command += ["--configfile", RUN / "crate/config.yaml"]
    done = subprocess.run(command, cwd=finished, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr
