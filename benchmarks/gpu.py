"""Everything that a GPU has to show, on the day when one is there. Run by ``gpu.sh``.

Each part (``gpu_parts.py``) is a process of its own with a time limit: one that fails, hangs or breaks the device stops
no other. What a part leaves of its share of the time goes to those after it. OUT/gpu.json is written anew whenever
something was measured, so that a run that is cut off keeps it. The tables come last. Exit code 1 when a part failed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ROW = "row: "  # what follows on a line of a part's output is a measurement
# Part -> its share of the time, in the order they are run.
PARTS = {"machine": 1, "tests": 6, "family": 2, "discovery": 9, "circuits": 4, "precision": 3}


class Record:
    """What was found so far, in a file that is always whole."""

    def __init__(self, folder: Path, minutes: float) -> None:
        self.file = folder / "gpu.json"
        self.found: dict = {"minutes": minutes, "finished": False, "parts": {}}
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    def write(self) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        part.replace(self.file)


def run_part(name: str, seconds: float, record: Record) -> None:
    """Run one part, its output passed on as it comes and its rows kept as they come."""
    entry: dict[str, Any] = {"status": "cut off", "seconds": 0.0, "limit": seconds, "rows": []}
    record.found["parts"][name] = entry
    record.write()
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_parts.py"), name, "--until", str(time.time() + seconds)]
    started, lines = time.monotonic(), []
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    expired = threading.Event()

    def stop() -> None:
        expired.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, stop)
    timer.start()
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            before, is_row, row = line.partition(ROW)
            lines.append(before)
            if is_row:
                entry["rows"].append(json.loads(row))
                record.write()
        process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:  # this process is being stopped
            os.killpg(process.pid, signal.SIGKILL)
    entry["seconds"] = round(time.monotonic() - started, 1)
    entry["status"] = "time out" if expired.is_set() else "ok" if process.returncode == 0 else "failed"
    if entry["status"] != "ok":
        entry["output"] = "".join(lines[-60:])  # with the traceback
    record.write()


def show(record: dict) -> None:
    """The tables: what was measured, part by part, and last how each part ended."""
    from setting import as_text

    for name, part in record["parts"].items():
        tables: dict[str, list[dict]] = {}
        for row in part["rows"]:
            tables.setdefault(row.get("table", name), []).append({k: v for k, v in row.items() if k != "table"})
        for title, rows in tables.items():
            if title == "machine":
                print("\nmachine\n" + "\n".join(f"{key}: {value}" for row in rows for key, value in row.items()))
            else:
                print(f"\n{title}\n{as_text(rows)}")
    parts = [
        {"part": name, **{k: part[k] for k in ("status", "seconds", "limit")}} for name, part in record["parts"].items()
    ]
    print(f"\nparts\n{as_text(parts)}", flush=True)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part that runs is ended too
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where gpu.json is written")
    parser.add_argument("--minutes", type=float, default=8.0, help="how long all of it may take")
    options = parser.parse_args()
    record = Record(options.folder, options.minutes)
    end = time.monotonic() + 60 * options.minutes - 15  # for the tables, and what stopping takes
    names = list(PARTS)
    for i, name in enumerate(names):
        share = PARTS[name] / sum(PARTS[later] for later in names[i:])
        limit = max(1.0, (end - time.monotonic()) * share)
        print(f"\n== {name}, at most {limit:.0f} s", flush=True)
        run_part(name, limit, record)
    record.found["finished"] = True
    record.write()
    show(record.found)
    return int(any(part["status"] != "ok" for part in record.found["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
