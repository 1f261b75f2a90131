"""The workflow on a real Slurm, as a user runs it: from a fresh copy, ``snakemake --profile slurm``."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from mechdiff.running.config import checked
from mechdiff.running.locks import RUNS
from mechdiff.running.resources import model_resources
from micro import ROOT
from slurm_node import NODE, cluster, slurm, wait, why_not

pytestmark = pytest.mark.slurm
RUN = "results/test"
PARTITIONS = ["--slurm-partition-config", "slurm/partitions.yaml"]
IMPATIENT = ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10"]


@pytest.fixture(scope="session")
def env(tmp_path_factory) -> Iterator[dict[str, str]]:
    if reason := why_not():
        pytest.skip(reason)
    with cluster(tmp_path_factory.mktemp("slurm")) as env:
        yield env


def copied(folder: Path) -> Path:
    """What a clone would have, and a test-size config whose models ask for a GPU (and compute on the CPU)."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    config = yaml.safe_load((ROOT / "config" / "test.yaml").read_text())
    config["models"]["mini-llama"]["gpus"] = 1
    config["plan"] = config["plan"][:2]
    config["plan"][1]["function"] = None  # and no positional desiderata: a smaller run
    (folder / "my.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def environment(folder: Path, env: dict[str, str]) -> dict[str, str]:
    here = Path(sys.executable).parent
    return env | {"PYTHONPATH": str(folder / "workflow"), "PATH": f"{here}:{env['PATH']}"}


def started(folder: Path, env: dict[str, str], *arguments: str) -> subprocess.Popen:
    command = ["snakemake", *arguments, "--configfile", "my.yaml"]
    out, err = subprocess.PIPE, subprocess.STDOUT
    return subprocess.Popen(command, cwd=folder, env=environment(folder, env), stdout=out, stderr=err, text=True)


def ended(process: subprocess.Popen) -> str:
    """What it printed, once it ended well."""
    printed, _ = process.communicate(timeout=2400)
    assert process.returncode == 0, printed
    return printed


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Path:
    """A finished run of the same config without Slurm."""
    folder = copied(tmp_path_factory.mktemp("local") / "clone")
    ended(started(folder, dict(os.environ), "--cores", "2"))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, env) -> Path:
    """A finished run on Slurm; tests must leave it as it is."""
    folder = copied(tmp_path_factory.mktemp("on_slurm") / "clone")
    ended(started(folder, env, "--profile", "slurm", *PARTITIONS, *IMPATIENT, "--set-threads", "check_model=2"))
    return folder


@pytest.fixture(scope="module")
def jobs(finished, env) -> dict[str, list[dict[str, str]]]:
    """What Slurm knows of that run's jobs: rule or group -> key -> value."""
    found: dict[str, list[dict[str, str]]] = {}
    for job in told(env):
        found.setdefault(re.sub("^rule_|_wildcards_.*", "", job["Comment"]), []).append(job)
    return found


def same_tables(folder: Path, other: Path) -> None:
    tables = [p for kind in ("tables", "figures", "verdict") for p in sorted((other / RUN / kind).iterdir())]
    compared = [p.relative_to(other) for p in tables if not p.name.endswith(".record.json")]
    assert len(compared) > 70
    for table in compared:
        assert (folder / table).read_bytes() == (other / table).read_bytes(), table


def audited(folder: Path, env: dict[str, str]) -> None:
    command = [sys.executable, "-m", "mechdiff", "audit", "results"]
    done = subprocess.run(command, cwd=folder, env=environment(folder, env), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_on_slurm_has_the_tables_of_a_local_one_byte_for_byte(finished, local, env):
    same_tables(finished, local)
    audited(finished, env)


def test_a_job_that_runs_a_model_asks_for_what_its_size_says(finished, jobs, monkeypatch):
    monkeypatch.chdir(finished)
    config = checked(yaml.safe_load(Path("my.yaml").read_text()))
    of_rule = {"path_patching": ["mini-llama"], "cmap": ["mini-goat", "mini-llama"], "check_model": ["mini-llama"]}
    for rule, models in of_rule.items():
        asked = model_resources(config, models, 1)
        for job in jobs[rule]:
            assert memory(job) == asked["mem_mb"]
            hours, minutes, _ = map(int, job["TimeLimit"].split(":"))
            assert 60 * hours + minutes == asked["runtime"]
            assert re.fullmatch(r"gres[:/]gpu[:=]1", job["TresPerJob"]) and job["Partition"] == "gpu"
            assert job["NumCPUs"] == ("2" if rule == "check_model" else "1")


def test_jobs_that_run_no_model_ask_for_one_cpu_little_memory_and_no_gpu(jobs):
    groups = {name for name in jobs if name.startswith(("data_", "tables_", "figures_"))}
    assert {name.split("_")[0] for name in groups} == {"data", "tables", "figures"}
    for job in (job for name in {*groups, "select_candidates"} for job in jobs[name]):
        assert memory(job) == 2000
        assert (job["NumCPUs"], job["Partition"]) == ("1", "cpu") and "TresPerJob" not in job


def test_every_job_leaves_its_log(finished, jobs):
    logs = {path.stem for path in (finished / "results" / "slurm_logs").rglob("*.log")}
    assert {job["JobId"] for each in jobs.values() for job in each} <= logs


@contextmanager
def evaluated_again(finished: Path, folder: Path, env: dict[str, str]) -> Iterator[tuple[subprocess.Popen, list[str]]]:
    """A run whose evaluation is done again, and those of its jobs that Slurm runs by now."""
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / RUN / "evaluation")
    process = started(folder, env, "--profile", "slurm", *IMPATIENT, "--forcerun", "evaluate_circuit")
    try:
        wait(lambda: running(env) or process.poll() is not None, "a job that runs")
        assert process.poll() is None, ended(process)
        yield process, running(env)
    finally:
        process.kill()


def running(env: dict[str, str]) -> list[str]:
    return slurm(env, "squeue", "-h", "-t", "RUNNING", "-o", "%i").split()


def at_work(folder: Path, env: dict[str, str]) -> list[str]:
    """The jobs that run and that the run which sent them knows of."""
    return [job for job in running(env) if list(folder.glob(f".snakemake/{RUNS}/*/{job}"))]


def waiting(env: dict[str, str]) -> list[str]:
    return slurm(env, "squeue", "-h", "-t", "PENDING", "-o", "%i").split()


def told(env: dict[str, str], *job: str) -> list[dict[str, str]]:
    """What Slurm knows of a job, or of all: key -> value."""
    texts = slurm(env, "scontrol", "show", "job", *job).split("\n\n")
    return [found for text in texts if (found := dict(re.findall(r"(\S+?)=(\S*)", text)))]


def memory(job: dict[str, str]) -> int:
    """What a job asked for [MB]."""
    return int(re.search(r"mem=(\d+)M", job.get("TRES") or job["ReqTRES"])[1])


def test_a_job_that_is_cancelled_is_done_again(finished, local, tmp_path, env):
    with evaluated_again(finished, tmp_path / "clone", env) as (process, jobs):
        victim = random.choice(jobs)
        slurm(env, "scancel", victim)
        mine = tmp_path / "clone" / "my.yaml"  # edited for the next run, while jobs of this one are still to come
        mine.write_text(mine.read_text().replace("resamples: 200", "resamples: 300"))
        printed = ended(process)
    assert f"SLURM-job '{victim}' failed, SLURM status is: 'CANCELLED'" in printed
    (first,) = told(env, victim)
    (again,) = (j for j in told(env) if j["Comment"] == first["Comment"] and int(j["JobId"]) > int(victim))
    assert memory(again) == pytest.approx(2 * memory(first), abs=1), "sent again with more"
    same_tables(tmp_path / "clone", local)
    audited(tmp_path / "clone", env)


def test_a_node_that_fails_and_comes_back_costs_time_alone(finished, local, tmp_path, env):
    with evaluated_again(finished, tmp_path / "clone", env) as (process, jobs):
        slurm(env, "scontrol", "update", f"NodeName={NODE}", "State=DOWN", "Reason=test")
        wait(lambda: not running(env), "its jobs to be stopped")
        slurm(env, "scontrol", "update", f"NodeName={NODE}", "State=RESUME")
        for job in jobs:  # else Slurm lets two minutes pass
            slurm(env, "scontrol", "update", f"JobId={job}", "StartTime=now")
        ended(process)
    again = [re.search(r"Restarts=(\d+)", slurm(env, "scontrol", "show", "job", job))[1] for job in jobs]
    assert again and set(again) == {"1"}, "by Slurm itself"
    same_tables(tmp_path / "clone", local)
    audited(tmp_path / "clone", env)


def test_snakemake_may_be_killed_while_its_jobs_are_in_the_queue(finished, local, tmp_path, env):
    """Three kills at random moments. The next run cancels the jobs of the killed one that are still there; one that was
    held back starts when all is done again, and touches nothing."""
    folder, rng = tmp_path / "clone", random.Random(3)
    shutil.copytree(finished, folder)
    for done in ("evaluation", "completeness", "attention_knockout"):
        shutil.rmtree(folder / RUN / done)
    command = ["--profile", "slurm", *IMPATIENT]
    late = left = None
    for kill in range(3):
        process = started(folder, env, *command)
        wait(lambda run=process: waiting(env) or run.poll() is not None, "a job that waits for a CPU")
        if not late:
            late = waiting(env)[-1]
            slurm(env, "scontrol", "hold", late)
        time.sleep(rng.uniform(2, 12))
        if kill == 2:  # a job that is still there when the next run begins
            wait(lambda: at_work(folder, env), "a job at work")
            left = at_work(folder, env)[0]
            slurm(env, "scontrol", "suspend", left)
        process.kill()
        process.communicate()
    ended(started(folder, env, *command))
    slurm(env, "scontrol", "release", late)
    wait(lambda: not slurm(env, "squeue", "-h"), "the last jobs")
    assert told(env, left)[0]["JobState"] == "CANCELLED"
    (job,) = told(env, late)
    (log,) = (folder / "results" / "slurm_logs").rglob(f"{late}.log")
    assert job["JobState"] == "FAILED" and "the run that sent this job is over" in log.read_text()
    same_tables(folder, local)
    audited(folder, env)
