"""A killed run's lock is released by the next, and its jobs write nothing more; a living run is left alone.

So it is with Snakemake's lock in one clone, and with that of a folder of results, which several clones may share.
"""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mechdiff.common.errors import InputError
from mechdiff.running.locks import LOCK, LOCKS, RUNS, hold, lock, take_over, tell, told, unlock
from mechdiff.running.staging import SENT_BY, staged
from small_run import CONFIG, RUN, new_folder, snakemake

HOLD = """
import sys
from mechdiff.running.locks import hold
hold(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""
LOCKING = """
import sys
from mechdiff.common.errors import InputError
from mechdiff.running.locks import hold, lock
hold(sys.argv[1])
sys.stdin.readline()
try:
    lock(sys.argv[2:])
    print("locked", flush=True)
except InputError as error:
    print(error, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def no_run_above(monkeypatch):
    monkeypatch.setenv(SENT_BY, "")  # so that what hold() says to jobs is taken back
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def another_run(folder: Path) -> subprocess.Popen:
    run = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "held\n"
    (folder / LOCKS).mkdir(exist_ok=True)
    (folder / LOCKS / "0.output.lock").write_text("results/x\n")
    return run


def name_of(folder: Path, pid: int) -> Path:
    """The folder in which a run says that it is there."""
    (name,) = (folder / RUNS).glob(f"*@{pid}@*")
    return name


def locked(folder: Path) -> bool:
    return any((folder / LOCKS).iterdir())


def test_the_lock_of_a_killed_run_is_released_and_that_of_a_living_one_stays(tmp_path):
    run = another_run(tmp_path)
    assert hold(tmp_path) is None and locked(tmp_path)
    run.kill()
    run.wait()
    assert name_of(tmp_path, run.pid).is_dir(), "a killed run leaves its name"
    name_of(tmp_path, os.getpid()).rmdir()
    assert hold(tmp_path) is None and not locked(tmp_path)


def test_a_run_that_ends_takes_its_name_away(tmp_path):
    run = another_run(tmp_path)
    run.communicate("")
    assert run.returncode == 0 and not list((tmp_path / RUNS).iterdir())


def test_the_lock_of_another_machine_stays_until_the_user_says_that_it_is_gone(tmp_path):
    another_run(tmp_path).communicate("")
    name = "elsewhere@17@1700000000"
    (tmp_path / RUNS / name).mkdir()
    line = hold(tmp_path)
    assert locked(tmp_path) and name in line and line.endswith("snakemake --unlock")
    take_over(tmp_path)
    assert (tmp_path / RUNS / name).exists()
    take_over(tmp_path, elsewhere_too=True)
    assert list((tmp_path / RUNS).iterdir()) == [name_of(tmp_path, os.getpid())]


def test_a_clock_that_is_set_does_not_make_a_living_run_look_dead(tmp_path, monkeypatch):
    run, booted = another_run(tmp_path), psutil.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: booted + 3600)
    assert psutil.boot_time() == booted + 3600
    take_over(tmp_path)
    assert name_of(tmp_path, run.pid).is_dir()
    run.communicate("")


def test_a_job_of_a_dead_run_goes_on_until_another_run_begins_and_then_writes_nothing(tmp_path, monkeypatch):
    run, output = another_run(tmp_path), tmp_path / "out" / "x.csv"
    name = str(name_of(tmp_path, run.pid))
    output.parent.mkdir()
    monkeypatch.setenv(SENT_BY, name)
    run.kill()
    run.wait()
    hold(tmp_path)  # as when somebody looks what there is to do
    monkeypatch.setenv(SENT_BY, name)
    with staged([str(output)]) as places:
        places[str(output)].write_text("in time")
    with pytest.raises(InputError, match="is over"), staged([str(output)]) as places:
        places[str(output)].write_text("late")
        take_over(tmp_path)
    assert output.read_text() == "in time" and list(output.parent.iterdir()) == [output]
    with pytest.raises(InputError, match="is over"), staged([str(output)]):
        pass
    with pytest.raises(InputError, match="is over"):
        told()


def test_a_job_is_told_what_its_run_began_with_and_notes_its_number(tmp_path, monkeypatch):
    assert told() is None, "where there is no run above"
    hold(tmp_path)
    tell({"config": {"seed": 7}})
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert told() == {"config": {"seed": 7}}
    assert sorted(file.name for file in name_of(tmp_path, os.getpid()).iterdir()) == ["12", "run.json"]


def test_a_living_run_keeps_its_name_before_it_has_locked_anything(tmp_path):
    run = another_run(tmp_path)
    (tmp_path / LOCKS / "0.output.lock").unlink()
    hold(tmp_path)
    take_over(tmp_path)
    assert len(list((tmp_path / RUNS).iterdir())) == 2
    run.communicate("")


def run_of_a_clone(clone: Path, *folders: Path) -> subprocess.Popen:
    """A run that locks folders of results when it is told to by a line; it ends when its input does."""
    command = [sys.executable, "-c", LOCKING, str(clone), *map(str, folders)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def says(run: subprocess.Popen) -> str:
    run.stdin.write("\n")
    run.stdin.flush()
    return run.stdout.readline().strip()


@pytest.fixture
def clones(tmp_path) -> tuple[Path, Path]:
    """Snakemake's folders of two clones whose results/ is one folder."""
    (tmp_path / "a" / "results").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "results").symlink_to(tmp_path / "a" / "results")
    return tmp_path / "a" / ".snakemake", tmp_path / "b" / ".snakemake"


def test_of_two_clones_that_share_results_the_second_is_told_who_is_first(clones):
    a, b = clones
    of_a, of_b = (clone.parent / "results" / "r" for clone in clones)
    first, second, third = run_of_a_clone(a, of_a), run_of_a_clone(b, of_b), run_of_a_clone(b, of_b.with_name("s"))
    assert says(first) == "locked"
    refused = says(second)
    assert refused.startswith(f"{of_b}: process {first.pid} on {os.uname().nodename} ")
    assert says(third) == "locked", "another run in the same results/"
    second.communicate("")
    assert [file.parent.name for file in of_a.rglob("*") if file.is_file()] == [LOCK], "nothing was touched"
    first.communicate("")
    assert not list(of_a.iterdir())
    again = run_of_a_clone(b, of_b)
    assert says(again) == "locked"
    for run in (again, third):
        run.communicate("")


def test_a_run_that_shares_one_of_its_folders_holds_none(clones):
    a, b = clones
    seed, own = (a.parent / "results" / name for name in ("family/seed1", "own"))
    first, second = run_of_a_clone(a, seed), run_of_a_clone(b, own, seed)
    assert says(first) == "locked" and str(seed) in says(second)
    second.communicate("")
    lock_of_third = run_of_a_clone(b, own)
    assert says(lock_of_third) == "locked"
    for run in (first, lock_of_third):
        run.communicate("")


def test_what_a_killed_run_of_another_clone_held_is_taken_over_and_its_jobs_write_nothing_more(clones, monkeypatch):
    a, b = clones
    first, output = run_of_a_clone(a, a.parent / "results" / "r"), a.parent / "results" / "r" / "x.csv"
    assert says(first) == "locked"
    name = str(name_of(a, first.pid))
    first.kill()
    first.wait()
    hold(b)
    monkeypatch.setenv(SENT_BY, name)
    with pytest.raises(InputError, match="is over"), staged([str(output)]) as places:
        places[str(output)].write_text("late")
        monkeypatch.setenv(SENT_BY, str(name_of(b, os.getpid())))
        lock([b.parent / "results" / "r"])
        monkeypatch.setenv(SENT_BY, name)
    assert [file.name for file in (output.parent / LOCK).iterdir()] == [name_of(b, os.getpid()).name]
    assert not output.exists()


def test_of_many_that_take_over_at_once_one_has_it(clones):
    a, b = clones
    folder = a.parent / "results" / "r"
    dead = run_of_a_clone(a, folder)
    assert says(dead) == "locked"
    dead.kill()
    dead.wait()
    runs = [run_of_a_clone(clone, folder) for clone in (a, b) * 4]
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    said = [run.stdout.readline().strip() for run in runs]
    assert said.count("locked") == 1 and all(line == "locked" or "has been writing it" in line for line in said)
    for run in runs:
        run.communicate("")
    assert not list(folder.iterdir())


def test_a_folder_held_on_another_machine_stays_so_until_the_user_says_that_it_is_gone(clones):
    a, _ = clones
    folder = a.parent / "results" / "r"
    (folder / LOCK).mkdir(parents=True)
    (folder / LOCK / "elsewhere@17@1700000000").write_text("/of/elsewhere/runs/elsewhere@17@1700000000")
    hold(a)
    with pytest.raises(InputError, match=r"process 17 on elsewhere .*: snakemake --unlock$"):
        lock([folder])
    unlock([folder])
    lock([folder])


def test_snakemake_does_not_start_where_another_clone_runs_and_plans_all_the_same(tmp_path):
    first, second = (new_folder(tmp_path / name) for name in ("first", "second"))
    (first / "results").mkdir()
    (second / "results").symlink_to(first / "results")
    run = run_of_a_clone(first / ".snakemake", first / RUN)
    assert says(run) == "locked"
    there = sorted((first / "results").rglob("*"))
    refused = snakemake(second, "--configfile", CONFIG)
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("mechdiff: ")]
    assert refused.returncode != 0 and line.startswith(f"mechdiff: {RUN}: process {run.pid} on ")
    assert "Traceback" not in refused.stderr
    for arguments in (["-n"], ["--dag"], ["--unlock"]):
        done = snakemake(second, "--configfile", CONFIG, *arguments)
        assert done.returncode == 0, done.stderr
    assert sorted((first / "results").rglob("*")) == there, "nothing was touched, nor unlocked"
    run.communicate("")


@pytest.mark.parametrize("content", ["", ".", "results", "/", "{there}", "{runs}/another@1@1"])
def test_a_damaged_lock_of_a_dead_run_is_taken_over_and_nothing_else_is_deleted(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    there, runs = tmp_path / "there", tmp_path / "elsewhere" / "runs"
    for folder in (there, runs / "another@1@1"):
        folder.mkdir(parents=True)
    owner = tmp_path / "results" / "x" / LOCK / f"{socket.gethostname()}@999999@1"
    owner.parent.mkdir(parents=True)
    owner.write_text(content.format(there=there, runs=runs))
    hold(".snakemake")
    lock(["results/x"])
    assert not owner.exists() and there.is_dir() and (runs / "another@1@1").is_dir()


@pytest.mark.parametrize("stray", [".DS_Store", "notes", "host", f"{socket.gethostname()}@x@y", "folder/"])
def test_what_is_no_runs_in_a_lock_is_named_and_left_alone(tmp_path, monkeypatch, stray):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "results" / "x" / LOCK / stray
    (path if stray.endswith("/") else path.parent).mkdir(parents=True)
    path.is_dir() or path.touch()
    (tmp_path / ".snakemake" / "runs").mkdir(parents=True)
    (tmp_path / ".snakemake" / "runs" / ".DS_Store").touch()
    hold(".snakemake")
    with pytest.raises(InputError, match=re.escape(f"{LOCK}/{stray.rstrip('/')}: is no run's")):
        lock(["results/x"])
    assert path.exists()
