"""A Slurm cluster of one node, this machine, for as long as a test needs it: everything it writes is in one folder.

Munge for authentication, no accounting database, no limits enforced by cgroups; two GPUs that are no more than names,
so that jobs may ask for them and are told which they have (CUDA_VISIBLE_DEVICES).
"""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PACKAGES = ("slurm-wlm", "munge")  # of Debian
CPUS, MEMORY, GPUS = 4, 500_000, 2  # what the node claims to have; memory in MiB
NODE = socket.gethostname().partition(".")[0]

SLURM_CONF = """
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
MinJobAge=3600
KillWait=2
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus}
PartitionName=cpu Nodes={node} Default=YES
PartitionName=gpu Nodes={node}
"""
GRES_CONF = "Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n"  # one line a GPU


def why_not() -> str | None:
    """Why there can be no cluster here; None once its programs are installed."""
    if not _installed():
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            return f"Slurm is not installed, and installing it takes root and apt-get ({', '.join(PACKAGES)})"
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(["apt-get", "-y", *command], env=quiet, capture_output=True, text=True)
        if done.returncode != 0 or not _installed():
            return f"Slurm could not be installed: {done.stderr.strip()[-300:]}"
    return None


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A running cluster; yields the environment in which Slurm's commands find it."""
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(mode=0o700, parents=True)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    values = {"node": NODE, "ports": _free_ports(2), "folder": folder, "user": getpass.getuser()}
    values |= {"cpus": CPUS, "memory": MEMORY, "gpus": GPUS}
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
    (folder / "gres.conf").write_text(GRES_CONF)
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    srun = folder / "bin" / "srun"  # jobs of the executor call it without the environment of Slurm
    srun.parent.mkdir()
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    munge = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge" / "pid"}
    munge |= {"log-file": folder / "munge" / "log", "seed-file": folder / "munge" / "seed"}
    with ExitStack() as running:
        options = [f"--{name}={value}" for name, value in munge.items()]
        running.enter_context(_daemon(["munged", "--foreground", "--force", *options], env))
        wait(lambda: (folder / "munge.socket").exists(), "munged")
        running.enter_context(_daemon(["slurmctld", "-D"], env))
        running.enter_context(_daemon(["slurmd", "-D", "-N", NODE], env))
        wait(lambda: "idle" in slurm(env, "sinfo", "-h", "-o", "%T", check=False), f"the node: {folder}/slurmd.log")
        running.callback(slurm, env, "scancel", "--user", getpass.getuser(), check=False)
        yield env


def slurm(env: dict[str, str], *command: str, check: bool = True) -> str:
    """What one of Slurm's commands prints."""
    return subprocess.run(command, env=env, check=check, capture_output=True, text=True, timeout=60).stdout


def wait(until: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Ask again until it is so; TimeoutError when it takes longer."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.2)


def _installed() -> bool:
    return all(_found(name) for name in (*DAEMONS, "sbatch", "srun"))


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def _daemon(command: list[str], env: dict[str, str]) -> Iterator[None]:
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen([_found(command[0]), *command[1:]], env=env, stdout=nowhere, stderr=nowhere)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
