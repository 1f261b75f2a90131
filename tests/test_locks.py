"""A killed run's lock is released by the next, and its jobs write nothing more; a living run is left alone."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mechdiff.errors import InputError
from mechdiff.locks import LOCKS, RUNS, hold, take_over, tell, told
from mechdiff.staging import SENT_BY, staged

HOLD = "import sys; from mechdiff.locks import hold; hold(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


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
