"""Runs that are killed at random moments, and go on with the same command to the same tables."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from mechdiff.provenance.audit import audit
from micro import ROOT

pytestmark = pytest.mark.whole_run
KILLS, SEED = 10, 5
RUN = "results/test"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = new_folder(tmp_path_factory.mktemp("undisturbed"))
    assert start(folder).wait(600) == 0, (folder / "log").read_text()
    return folder


def new_folder(folder: Path) -> Path:
    """A folder for a run of the base alone, at test size, in shards: two groups, and no desiderata of a group."""
    for name in ("config", "resources"):
        shutil.copytree(ROOT / name, folder / name)
    config = yaml.safe_load((ROOT / "config" / "test.yaml").read_text())
    del config["models"]["mini-goat"]
    config["plan"] = [entry | {"function": None} for entry in config["plan"][:2]]
    config["dataset"]["rows"] |= {"discovery": 60, "minimality": 60}
    config["shards"] = {"path_patching": 2, "minimality": 2, "activation_patching": 2}
    (folder / "my.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def start(folder: Path, before: Callable[[], None] | None = None) -> subprocess.Popen:
    """The command that a user types, each time the same."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--cores", "2"]
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            [*command, "--configfile", "my.yaml"],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=before,
        )


def kill(run: subprocess.Popen, whom: str, rng: random.Random) -> None:
    """SIGKILL for the scheduler alone, for one of its jobs, or for everything."""
    jobs = [p for p in psutil.Process(run.pid).children(recursive=True) if "python" in p.name()]
    if whom == "all":
        os.killpg(run.pid, signal.SIGKILL)
    elif whom == "job" and jobs:
        rng.choice(jobs).kill()
    else:
        run.kill()
    run.wait(600)


def shown(folder: Path) -> dict[str, bytes]:
    """What a reader sees: tables, figures and the verdict, by name; records have times in them."""
    files = [file for kind in ("tables", "figures", "verdict") for file in (folder / RUN / kind).iterdir()]
    return {file.name: file.read_bytes() for file in files if not file.name.endswith(".record.json")}


def ends_the_same(folder: Path, undisturbed: Path) -> None:
    assert start(folder).wait(600) == 0, (folder / "log").read_text()[-5000:]
    assert shown(folder) == shown(undisturbed) and audit(folder / "results")
    assert not list((folder / "results").rglob("*.part")), "nothing half-written is left"


def test_killed_at_random_moments_it_goes_on_and_ends_the_same(undisturbed, tmp_path):
    folder, rng, killed = new_folder(tmp_path / "killed"), random.Random(SEED), 0
    while killed < KILLS:
        run = start(folder)
        time.sleep(rng.uniform(2, 9))
        if run.poll() is not None:  # done before it could be killed: part of it is done again
            shutil.rmtree(folder / RUN / "path_patching")
            continue
        kill(run, rng.choice(["scheduler", "job", "all"]), rng)
        killed += 1
    ends_the_same(folder, undisturbed)


def test_a_full_disk_stops_it_with_one_line_and_it_goes_on_when_there_is_room(undisturbed, tmp_path):
    """No file may grow beyond 60 kB: writing more fails as it does on a full disk."""
    folder = new_folder(tmp_path / "full")
    run = start(folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY)))
    assert run.wait(600) != 0
    log = (folder / "log").read_text()
    (line, *_) = [line for line in log.splitlines() if line.startswith("mechdiff: ")]
    assert "File too large" in line and "Traceback" not in log
    assert not list((folder / "results").rglob("*.part"))
    ends_the_same(folder, undisturbed)


def test_of_runs_at_once_the_later_are_refused_and_the_first_is_left_alone(undisturbed, tmp_path):
    """The second is started in the same folder, the third in a clone whose results are the first's by a link."""
    folder, other = new_folder(tmp_path / "twice"), new_folder(tmp_path / "other")
    (folder / "results").mkdir()
    (other / "results").symlink_to(folder / "results")
    first = start(folder)
    while not (folder / RUN / ".lock").exists():
        assert first.poll() is None
        time.sleep(0.1)
    refused = {folder: "Directory cannot be locked", other: f"{RUN}: process {first.pid} on "}
    for later, line in refused.items():
        assert start(later).wait(600) != 0 and line in (later / "log").read_text()
    assert first.wait(600) == 0 and shown(folder) == shown(undisturbed) and audit(folder / "results")
