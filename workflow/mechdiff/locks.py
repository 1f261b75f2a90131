"""Runs that were killed: their locks are released, their jobs ended, by the next run.

Killed outright, Snakemake leaves its lock behind, and its jobs to the machine or in Slurm's queue. So each run says who
it is, by a folder of its own name that its jobs know of (``MECHDIFF_RUN``):

1. A run that begins releases the lock where all who said so are gone (``hold``). One on another machine cannot be
   looked at: then the lock stays, and a line says what to do.
2. Before its first job it tells its jobs the config and the code that it began with (``tell``); a job on a node takes
   them from there and notes its number in Slurm (``told``). Whatever is edited meanwhile is for the next run.
3. Before its first job it also ends what dead runs left (``take_over``): their folders go, so that no job of theirs
   begins any more or puts an output in its place (:mod:`mechdiff.staging`), and those that Slurm runs are cancelled.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from mechdiff.errors import InputError
from mechdiff.provenance import write_text
from mechdiff.staging import SENT_BY, require_run

LOCKS, RUNS = "locks", "runs"
TOLD = "run.json"  # in a run's folder, beside one empty file for each of its jobs in Slurm
PATIENCE = 120  # for Slurm to end a job [s]


def hold(folder: str | Path) -> str | None:
    """Say in Snakemake's folder, and to jobs of this process, that it runs; release what only dead ones have locked.

    A line for the user when a lock may be that of a dead run of another machine.
    """
    locks, runs = Path(folder) / LOCKS, Path(folder).absolute() / RUNS
    runs.mkdir(parents=True, exist_ok=True)
    others = [run for run in runs.iterdir() if not _dead(run)]
    locked = locks.is_dir() and any(locks.iterdir())
    if locked and not others:
        shutil.rmtree(locks)
        locks.mkdir()
    me = runs / f"{socket.gethostname()}@{os.getpid()}@{_started(os.getpid())}"
    me.mkdir(exist_ok=True)
    os.environ[SENT_BY] = str(me)
    atexit.register(shutil.rmtree, me, ignore_errors=True)
    elsewhere = [run.name for run in others if not _here(run)]
    return (
        f"{locks}: locked by a run on another machine ({', '.join(elsewhere)}); if it is gone: snakemake --unlock"
        if locked and elsewhere
        else None
    )


def tell(value: Any) -> None:
    """Leave a JSON value for the jobs of this run."""
    write_text(Path(os.environ[SENT_BY], TOLD), json.dumps(value))


def told() -> Any:
    """What the run that sent this job left for it; None where nothing is known of that run.

    Raises InputError when that run is over.
    """
    run = os.environ.get(SENT_BY)
    if not run or not Path(run).parent.is_dir():
        return None
    try:
        if job := os.environ.get("SLURM_JOB_ID"):
            Path(run, job).touch()
        return json.loads(Path(run, TOLD).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        require_run()
        raise InputError(str(error)) from error


def take_over(folder: str | Path, elsewhere_too: bool = False) -> None:
    """End the jobs of dead runs; ``elsewhere_too``: the user says that those of other machines are gone.

    Raises InputError when Slurm does not end one.
    """
    runs = (Path(folder) / RUNS).iterdir()
    dead = [run for run in runs if _dead(run) or (elsewhere_too and not _here(run))]
    jobs = {file.name for run in dead for file in run.iterdir() if file.name.isdigit()}
    for run in dead:
        shutil.rmtree(run, ignore_errors=True)
    if shutil.which("squeue") and (left := _in_queue(jobs)):
        print(f"mechdiff: cancelling {len(left)} jobs that a killed run left to Slurm", file=sys.stderr)
        subprocess.run(["scancel", *left], check=False)
        end = time.monotonic() + PATIENCE
        while left := _in_queue(jobs):
            if time.monotonic() > end:
                raise InputError(f"jobs of a killed run do not end: {', '.join(left)}; see squeue and scancel")
            time.sleep(1)


def _in_queue(jobs: Iterable[str]) -> list[str]:
    asked = subprocess.run(["squeue", "--me", "--noheader", "--format=%i"], capture_output=True, text=True, check=False)
    return sorted(set(jobs) & set(asked.stdout.split()), key=int)


def _here(run: Path) -> bool:
    return run.name.split("@")[0] == socket.gethostname()


def _dead(run: Path) -> bool:
    """Whether a process of this machine is gone, or another one has its number."""
    if not _here(run):
        return False
    pid, started = map(int, run.name.split("@")[1:])
    now = _started(pid)
    return now is None or abs(now - started) > 1


def _started(pid: int) -> int | None:
    """Seconds from the machine's start to the process's, which no change of the clock moves."""
    try:
        return round(psutil.Process(pid).create_time() - psutil.boot_time())
    except psutil.NoSuchProcess:
        return None
