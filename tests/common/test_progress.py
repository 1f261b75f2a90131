"""Progress: a bar on a terminal; elsewhere silence, or one line a minute when work is long."""

import os
import pty
import subprocess
import sys
import termios

from mechdiff.common import progress as module
from mechdiff.common.progress import progress

WORK = """
from mechdiff.common.progress import progress
with progress("mini-llama: path patching, group A", 3, "rows") as bar:
    for layer in range(3):
        bar.set_postfix_str(f"layer {layer}", refresh=False)
        bar.update()
        bar.refresh()
"""


def test_a_terminal_sees_what_is_done_how_much_and_the_time_left():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    subprocess.run([sys.executable, "-c", WORK], stderr=theirs, check=True)
    seen = os.read(ours, 65536).decode()
    os.close(theirs)
    os.close(ours)
    assert "mini-llama: path patching, group A" in seen
    assert "2/3" in seen and "layer 1" in seen and "rows/s" in seen and "<00:00" in seen


def test_elsewhere_short_work_is_silent(capfd):
    with progress("short", 3, "rows") as bar:
        for _ in range(3):
            bar.update()
    assert capfd.readouterr().err == ""


def test_elsewhere_long_work_writes_whole_lines(capfd, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0)
    with progress("long", 3, "rows") as bar:
        for _ in range(3):
            bar.update()
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("long:  33%") for line in lines)
    assert "\r" not in "".join(lines)
