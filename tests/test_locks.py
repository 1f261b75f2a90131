"""Whose lock it is: that of a dead run is released, that of a living one is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mechdiff.errors import InputError
from mechdiff.locks import LOCKS, RUNS, hold
from mechdiff.staging import SENT_BY, staged

HOLD = "import sys; from mechdiff.locks import hold; hold(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


@pytest.fixture(autouse=True)
def no_run_above(monkeypatch):
    monkeypatch.setenv(SENT_BY, "")  # so that what hold() says to jobs is taken back


def another_run(folder: Path) -> subprocess.Popen:
    run = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "held\n"
    (folder / LOCKS).mkdir(exist_ok=True)
    (folder / LOCKS / "0.output.lock").write_text("results/x\n")
    return run


def own_name(folder: Path) -> Path:
    (own,) = (folder / RUNS).glob(f"*@{os.getpid()}@*")
    return own


def locked(folder: Path) -> bool:
    return any((folder / LOCKS).iterdir())


def test_the_lock_of_a_killed_run_is_released_and_that_of_a_living_one_stays(tmp_path):
    run = another_run(tmp_path)
    assert hold(tmp_path) is None and locked(tmp_path)
    run.kill()
    run.wait()
    assert len(list((tmp_path / RUNS).iterdir())) == 2, "a killed run leaves its name"
    own_name(tmp_path).unlink()
    assert hold(tmp_path) is None and not locked(tmp_path)


def test_a_run_that_ends_takes_its_name_away(tmp_path):
    run = another_run(tmp_path)
    run.communicate("")
    assert run.returncode == 0 and not list((tmp_path / RUNS).iterdir())


def test_the_lock_of_another_machine_stays_and_a_line_says_what_to_do(tmp_path):
    another_run(tmp_path).communicate("")
    (tmp_path / RUNS / "elsewhere@17@1700000000").touch()
    line = hold(tmp_path)
    assert locked(tmp_path) and "elsewhere@17@1700000000" in line and line.endswith("snakemake --unlock")


def test_a_job_of_a_run_that_another_replaced_writes_nothing(tmp_path, monkeypatch):
    run, output = another_run(tmp_path), tmp_path / "out" / "x.csv"
    (name,) = (tmp_path / RUNS).iterdir()
    output.parent.mkdir()
    monkeypatch.setenv(SENT_BY, str(name))
    run.kill()
    run.wait()
    with pytest.raises(InputError, match="is over"), staged([str(output)]) as places:
        places[str(output)].write_text("late")
        hold(tmp_path)
        monkeypatch.setenv(SENT_BY, str(name))
    assert list(output.parent.iterdir()) == []
    with pytest.raises(InputError, match="is over"), staged([str(output)]):
        pass


def test_a_living_run_keeps_its_name_before_it_has_locked_anything(tmp_path):
    run = another_run(tmp_path)
    (tmp_path / LOCKS / "0.output.lock").unlink()
    hold(tmp_path)
    assert len(list((tmp_path / RUNS).iterdir())) == 2
    run.communicate("")
