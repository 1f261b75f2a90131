"""Outputs are in place whole or not at all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mechdiff.running.staging import staged


def test_outputs_appear_together_at_the_end_and_nothing_else_is_left(tmp_path):
    outputs = [str(tmp_path / name) for name in ("a.csv", "b.json")]
    with staged(outputs, last=outputs[0]) as places:
        for output in outputs:
            places[output].write_text(output)
            assert places[output].suffix == output[output.index(".") :], "writers go by the ending"
        assert not any((tmp_path / name).exists() for name in ("a.csv", "b.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.json"]


def test_after_an_error_there_is_nothing_and_what_was_there_stays(tmp_path):
    (tmp_path / "old").write_text("old")
    with pytest.raises(OSError, match="full"), staged([str(tmp_path / "old"), str(tmp_path / "new")]) as places:
        places[str(tmp_path / "old")].write_text("half")
        raise OSError("disk full")
    assert [path.name for path in tmp_path.iterdir()] == ["old"] and (tmp_path / "old").read_text() == "old"


def test_what_a_killed_job_left_is_gone_when_it_is_done_again(tmp_path):
    code = (
        "import sys, time; from mechdiff.running.staging import staged\n"
        "with staged([sys.argv[1]]) as places:\n"
        "    places[sys.argv[1]].write_text('half'); print('there', flush=True); time.sleep(60)"
    )
    output = str(tmp_path / "out.txt")
    job = subprocess.Popen([sys.executable, "-c", code, output], stdout=subprocess.PIPE)
    assert job.stdout.readline() == b"there\n"
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    time.sleep(0.1)
    assert not Path(output).exists() and len(list(tmp_path.iterdir())) == 1
    with staged([output]) as places:
        places[output].write_text("whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize("other", ["out.txt.x", "out.txt.part", "out.txt.x.part.txt"])
def test_jobs_whose_outputs_begin_alike_leave_each_other_alone(tmp_path, other):
    outputs = [str(tmp_path / name) for name in (other, "out.txt")]
    with staged(outputs[:1]) as first, staged(outputs[1:]) as second:
        first[outputs[0]].write_text("first")
        second[outputs[1]].write_text("second")
    assert [Path(output).read_text() for output in outputs] == ["first", "second"]
