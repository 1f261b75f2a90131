"""Runs at test size, as a user starts them: real snakemake processes in a folder of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from mechdiff.common.files import digest, file_sha256
from mechdiff.provenance.cells import read_table
from mechdiff.provenance.records import manifest_text
from micro import ROOT

CONFIG = "config/test.yaml"
RUN = "results/test"


def snakemake(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    """Run in a folder that has its own config/ and resources/; the Snakefile is its own, if it has one."""
    project = folder if (folder / "Snakefile").exists() else ROOT
    command = [sys.executable, "-m", "snakemake", "-s", str(project / "Snakefile"), "--cores", "2", *arguments]
    own = os.environ | {"PYTHONPATH": str(project / "workflow")} | env
    return subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True, timeout=1800)


def new_folder(path: Path) -> Path:
    shutil.copytree(ROOT / "config", path / "config")
    shutil.copytree(ROOT / "resources", path / "resources")
    return path


def copy_of(folder: Path, to: Path) -> Path:
    """A folder with a run, again, without what Snakemake notes for itself."""
    return shutil.copytree(folder, to, ignore=shutil.ignore_patterns(".snakemake"))


def mechdiff(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The command, in a folder."""
    command = [sys.executable, "-m", "mechdiff", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800)


def short_family(family: dict) -> dict:
    """A family's config, three steps a training."""
    short = yaml.safe_load(yaml.safe_dump(family))
    short["base"] |= {"steps": 3, "scenes": 4}
    short["base"]["weakened"]["scenes"] = 20
    for member in short["fine_tuned"].values():
        member["steps"] = 3
    return short


def new_project(path: Path) -> Path:
    """The project again, as a clone has it, to be changed and run in."""
    for folder in ("workflow", "config", "envs", "resources", "profiles"):
        shutil.copytree(ROOT / folder, path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "Snakefile", path)
    return path


def forge(folder: Path, model: str, faithfulness: float) -> None:
    """Another number in Table 1 of a run, and every record and the manifest forged with it."""
    table = folder / RUN / "tables" / "table_1.csv"
    forged = read_table(table)
    forged.loc[forged["model"] == model, "faithfulness"] = faithfulness
    table.write_text(forged.to_csv(index=False))
    for name, kind in (("tables/table_1", "outputs"), ("ro-crate-metadata", "inputs")):  # the crate reads the record
        record = folder / RUN / f"{name}.record.json"
        told = json.loads(record.read_text())
        for file in told[kind]:
            at = folder / file["path"]
            file |= {"sha256": file_sha256(at), "bytes": at.stat().st_size}
        record.write_text(json.dumps(told))
    sealed = json.loads((folder / RUN / "manifest.json").read_text())["records"]
    made = {"run": RUN, "records": {name: file_sha256(folder / name) for name in sealed}}
    (folder / RUN / "manifest.json").write_text(manifest_text(made | {"digest": digest(made)}))
