"""Whose lock it is: that of a dead run is released, that of a living one is not."""

import subprocess
import sys
from pathlib import Path

from mechdiff.locks import LOCKS, RUNS, hold

HOLD = "import sys; from mechdiff.locks import hold; hold(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def another_run(folder: Path) -> subprocess.Popen:
    run = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "held\n"
    (folder / LOCKS).mkdir(exist_ok=True)
    (folder / LOCKS / "0.output.lock").write_text("results/x\n")
    return run


def locked(folder: Path) -> bool:
    return any((folder / LOCKS).iterdir())


def test_the_lock_of_a_killed_run_is_released_and_that_of_a_living_one_stays(tmp_path):
    run = another_run(tmp_path)
    assert hold(tmp_path) is None and locked(tmp_path)
    run.kill()
    run.wait()
    assert len(list((tmp_path / RUNS).iterdir())) == 2, "a killed run leaves its name"
    for own in (tmp_path / RUNS).iterdir():
        if f"@{run.pid}@" not in own.name:
            own.unlink()
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
