"""The lock of a run that was killed is released by the next one.

Snakemake locks the files of a run until it ends; killed outright, it leaves its lock behind. So each run says who it
is, and where all who did are gone, what they locked is free again, and jobs of theirs that still run write nothing
more (:mod:`mechdiff.staging`). A run on another machine cannot be looked at: then the lock stays, and a line says what
to do.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
from pathlib import Path

import psutil

from mechdiff.staging import SENT_BY

LOCKS, RUNS = "locks", "runs"


def hold(folder: str | Path) -> str | None:
    """Say in Snakemake's folder, and to jobs of this process, that it runs; release what dead ones locked.

    A line for the user when a lock may be that of a dead run of another machine.
    """
    locks, runs = Path(folder) / LOCKS, Path(folder).absolute() / RUNS
    locked = locks.is_dir() and any(locks.iterdir())
    runs.mkdir(parents=True, exist_ok=True)
    others = [run for run in runs.iterdir() if not _dead(run)]
    if not locked:  # by whom is elsewhere neither: they are gone, or were declared so (snakemake --unlock)
        others = [run for run in others if _here(run)]
    for run in set(runs.iterdir()) - set(others):
        run.unlink(missing_ok=True)
    if locked and not others:
        shutil.rmtree(locks)
        locks.mkdir()
    me = runs / f"{socket.gethostname()}@{os.getpid()}@{_started(os.getpid())}"
    me.touch()
    os.environ[SENT_BY] = str(me)
    atexit.register(me.unlink, missing_ok=True)
    elsewhere = [run.name for run in others if not _here(run)]
    return (
        f"{locks}: locked by a run on another machine ({', '.join(elsewhere)}); if it is gone: snakemake --unlock"
        if elsewhere
        else None
    )


def _here(run: Path) -> bool:
    return run.name.split("@")[0] == socket.gethostname()


def _dead(run: Path) -> bool:
    """Whether a process of this machine is gone, or another one has its number."""
    if not _here(run):
        return False
    pid, started = map(int, run.name.split("@")[1:])
    return _started(pid) != started


def _started(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None
