"""One run at a time in a folder of results; and runs that were killed: their locks are released, their jobs ended.

Snakemake's own lock is in the folder that it is started in, so it does not see a run of another clone that has the same
``results/``. And killed outright, Snakemake leaves its lock behind, and its jobs to the machine or in Slurm's queue. So
each run says who it is, by a folder of its own name that its jobs know of (``MECHDIFF_RUN``):

1. A run that begins releases the lock where all who said so are gone (``hold``). One on another machine cannot be
   looked at: then the lock stays, and a line says what to do.
2. Before its first job it tells its jobs the config and the code that it began with (``tell``); a job on a node takes
   them from there and notes its number in Slurm (``told``). Whatever is edited meanwhile is for the next run.
3. Before its first job it also ends what dead runs left (``take_over``): their folders go, so that no job of theirs
   begins any more or puts an output in its place (module ``staging``), and those that Slurm runs are cancelled.
4. And it locks the folders that its jobs write into, in these folders themselves (``lock``). It does not start where
   another run holds one; that of a dead run it takes over.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from errno import EEXIST, ENOTEMPTY
from pathlib import Path
from typing import Any

import psutil

from mechdiff.common.errors import InputError
from mechdiff.common.files import write_text
from mechdiff.common.reading import few
from mechdiff.running.staging import SENT_BY, require_run

LOCKS, RUNS = "locks", "runs"  # in Snakemake's folder
LOCK = ".lock"  # in a folder that a run writes into: a folder that holds one file, which has the run's name
TOLD = "run.json"  # in a run's folder, beside one empty file for each of its jobs in Slurm
NAME = re.compile(r"(?P<host>.+)@(?P<pid>\d{1,9})@(?P<started>\d{1,18})")  # of a run
PATIENCE = 120  # for Slurm to end a job [s]


def hold(folder: str | Path) -> str | None:
    """Say in Snakemake's folder, and to jobs of this process, that it runs; release what only dead ones have locked.

    A line for the user when a lock may be that of a dead run of another machine.
    """
    locks, runs = Path(folder) / LOCKS, Path(folder).absolute() / RUNS
    runs.mkdir(parents=True, exist_ok=True)
    others = [run for run in _named(runs) if not _dead(run)]
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
        f"{locks}: locked by a run on another machine ({few(elsewhere)}); if it is gone: snakemake --unlock"
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
    _end([run for run in _named(Path(folder) / RUNS) if _dead(run) or (elsewhere_too and not _here(run))])


def lock(folders: Iterable[str | Path]) -> None:
    """Hold folders for this run until its process ends; what dead runs held is taken over and their jobs are ended.

    Raises InputError that names the run that holds one of them.
    """
    me = Path(os.environ[SENT_BY])
    for folder in map(Path, sorted(set(map(str, folders)))):
        atexit.register(_release, folder / LOCK / me.name)
        _end(_locked(folder, me))


def unlock(folders: Iterable[str | Path]) -> None:
    """Release what runs of other machines hold: the user says that they are gone."""
    for folder in folders:
        for owner in _named(Path(folder) / LOCK):
            if not _here(owner):
                owner.unlink(missing_ok=True)


def _locked(folder: Path, me: Path) -> list[Path]:
    """Lock a folder for a run; the dead runs that held it. Runs by the folders of their own.

    A folder that has this run's name in it becomes the lock by one rename. That fails where the lock has a name in it,
    and does not where it is empty. A dead run's name is removed by that name, so nobody's else can go with it.
    """
    mine, dead = folder / f"{LOCK}.{me.name}", []
    mine.mkdir(parents=True, exist_ok=True)
    try:
        (mine / me.name).write_text(str(me), encoding="utf-8")
        while True:
            try:
                mine.rename(folder / LOCK)
            except OSError as error:
                if error.errno not in (EEXIST, ENOTEMPTY):
                    raise
            else:
                return dead
            with suppress(FileNotFoundError):  # another took it over, or it ended
                for owner in (folder / LOCK).iterdir():
                    if not NAME.fullmatch(owner.name) or not owner.is_file():
                        raise InputError(
                            f"{owner}: is no run's; allowed: nothing else in the lock of a folder, delete it"
                        )
                    if not _dead(owner):
                        raise InputError(_held(folder, owner))
                    dead += _own_folder(owner)
                    owner.unlink()
    finally:
        shutil.rmtree(mine, ignore_errors=True)


def _own_folder(owner: Path) -> list[Path]:
    """The folder of its own that a run wrote into its lock; none where that is damaged: it will be deleted."""
    run = Path(owner.read_bytes().decode("utf-8", "replace"))
    return [run] if run.is_absolute() and (run.parent.name, run.name) == (RUNS, owner.name) else []


def _named(folder: Path) -> list[Path]:
    """What in a folder has the name of a run."""
    return [path for path in folder.glob("*") if NAME.fullmatch(path.name)]


def _held(folder: Path, owner: Path) -> str:
    """Who holds a folder, and what to do."""
    host, pid, _ = _parts(owner)
    since = datetime.fromtimestamp(owner.stat().st_mtime).astimezone().isoformat(" ", "seconds")
    cure = "start again when it has ended" if _here(owner) else "if that run is gone: snakemake --unlock"
    return f"{folder}: process {pid} on {host} has been writing it since {since}; {cure}"


def _release(owner: Path) -> None:
    with suppress(OSError):  # another may hold the folder by now
        owner.unlink(missing_ok=True)
        owner.parent.rmdir()


def _end(dead: Iterable[Path]) -> None:
    """End what runs left, by their own folders: these go, and what Slurm has of their jobs is cancelled."""
    jobs = {file.name for run in dead if run.is_dir() for file in run.iterdir() if file.name.isdigit()}
    for run in dead:
        shutil.rmtree(run, ignore_errors=True)
    if shutil.which("squeue") and (left := _in_queue(jobs)):
        print(f"mechdiff: cancelling {len(left)} jobs that a killed run left to Slurm", file=sys.stderr)
        subprocess.run(["scancel", *left], check=False)
        end = time.monotonic() + PATIENCE
        while left := _in_queue(jobs):
            if time.monotonic() > end:
                raise InputError(f"jobs of a killed run do not end: {few(left)}; see squeue and scancel")
            time.sleep(1)


def _in_queue(jobs: Iterable[str]) -> list[str]:
    asked = subprocess.run(["squeue", "--me", "--noheader", "--format=%i"], capture_output=True, text=True, check=False)
    return sorted(set(jobs) & set(asked.stdout.split()), key=int)


def _here(run: Path) -> bool:
    return _parts(run)[0] == socket.gethostname()


def _parts(run: Path) -> tuple[str, int, int]:
    """Host, number of the process, and when it was started [s since the machine was]."""
    found = NAME.fullmatch(run.name)
    return found["host"], int(found["pid"]), int(found["started"])


def _dead(run: Path) -> bool:
    """Whether a process of this machine is gone, or another one has its number."""
    if not _here(run):
        return False
    _, pid, started = _parts(run)
    now = _started(pid)
    return now is None or abs(now - started) > 1


def _started(pid: int) -> int | None:
    """Seconds from the machine's start to the process's, which no change of the clock moves."""
    try:
        return round(psutil.Process(pid).create_time() - psutil.boot_time())
    except psutil.NoSuchProcess:
        return None
