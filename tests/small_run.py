"""Runs at test size, as a user starts them: real snakemake processes in a folder of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from micro import ROOT

CONFIG = "config/test.yaml"
RUN = "results/test"


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run in a folder that has its own config/ and resources/, with the project's Snakefile."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


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
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


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
