"""benchmarks/gpu.sh, rehearsed on the CPU where nothing is installed but what it says it needs."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from micro import ROOT

BENCHMARKS = ROOT / "benchmarks"
NEEDED = ["torch", "transformers", "peft", "pandas", "pyarrow", "pytest", "hypothesis"]
HIDING = """
import sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else super().find_spec(name, path, target)

sys.meta_path = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""


def brought() -> set[str]:
    """The named packages, and what their installation brings."""
    found, waiting = set(), list(NEEDED)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
    """The environment of a machine that has no other package."""
    here, kept = metadata.packages_distributions(), brought()
    hidden = {m for m, owners in here.items() if not {o.lower().replace("_", "-") for o in owners} & kept} - {
        "mechdiff"
    }
    assert {"snakemake", "matplotlib", "jsonschema", "tabulate"} <= hidden and "torch" not in hidden
    (tmp_path / "sitecustomize.py").write_text(HIDING.format(hidden=hidden))
    own = {"PYTHONPATH": str(tmp_path), "PYTHON": sys.executable, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return {**os.environ, **own, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def numbers(x: object) -> Iterator[float]:
    if isinstance(x, dict | list):
        for value in x.values() if isinstance(x, dict) else x:
            yield from numbers(value)
    elif isinstance(x, float):
        yield x


def run(folder: Path, env: dict[str, str], minutes: str) -> tuple[subprocess.CompletedProcess, dict]:
    command = ["bash", str(BENCHMARKS / "gpu.sh"), "out"]
    done = subprocess.run(command, cwd=folder, env=env | {"MINUTES": minutes}, capture_output=True, text=True)
    return done, json.loads((folder / "out" / "gpu.json").read_text())


@pytest.mark.whole_run
def test_every_part_is_rehearsed_on_a_bare_machine(bare, tmp_path):
    done, found = run(tmp_path, bare, "600")  # no test is about time
    statuses = {name: part["status"] for name, part in found["parts"].items()}
    assert set(statuses.values()) == {"ok"} and done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert found["finished"] and all(map(math.isfinite, numbers(found)))
    tables: dict[str, list[dict]] = {}
    for row in (row for part in found["parts"].values() for row in part["rows"]):
        tables.setdefault(row["table"], []).append(row)
    assert tables["machine"][0]["rehearsal"] is True and "THIS IS A REHEARSAL" in done.stdout
    assert tables["tests"] and all(row["outcome"] == "passed" for row in tables["tests"])
    assert all(row["same circuit, accuracies"] and row["scores differ by"] == 0 for row in tables["family"])
    assert {row["step"].split(",")[0] for row in tables["discovery"]} == {f"discovery {group}" for group in "ABCD"}
    assert {row["step"].split(",")[0].split(":")[0] for row in tables["circuits"]} == {"Table 1", "minimality"}
    for row in tables["discovery"] + tables["circuits"]:
        assert row["rows/s"] > 0 and row["PFLOP"] > 0 and row["examples"] > 0
    assert [row["pass"] for row in tables["the plain way"]] == list("ABCD")
    assert {row["numbers"] for row in tables["precision"]} == {"tf32", "bfloat16"}
    last = done.stdout.rstrip().split("\n")[-len(statuses) :]
    assert [line.split()[0] for line in last] == list(statuses), "the tables come last"


def test_a_run_without_time_says_so_for_each_part_and_keeps_a_whole_record(bare, tmp_path):
    done, found = run(tmp_path, bare, "0.2")
    assert done.returncode == 1 and found["finished"]
    assert {part["status"] for part in found["parts"].values()} == {"time out"} and len(found["parts"]) == 6


def test_a_part_that_fails_leaves_its_output_in_the_record(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu

    record = gpu.Record(tmp_path, 1)
    gpu.run_part("no such part", 60, record)
    part = json.loads((tmp_path / "gpu.json").read_text())["parts"]["no such part"]
    assert part["status"] == "failed" and "no such part" in part["output"]
