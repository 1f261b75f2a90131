"""What recording costs a run: everything that a job does for its record, done again for each job of a finished run.

Hashes of inputs and outputs, versions of code and packages, the state of the checkout, against the wall time of the
same jobs as their records have it. That leaves out that each starts Python: the share of a run is smaller still. On the
machine that made the run, with nothing else going on, the two are comparable.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from mechdiff.provenance import code
from mechdiff.provenance.code import code_version
from mechdiff.provenance.records import environment, git_state, hashed_files, read_record

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow" / "scripts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", default="results/mini", help="a finished run's folder")
    records = [read_record(file) for file in read_record(Path(parser.parse_args().run) / "manifest.json")["records"]]
    recording = 0.0
    for record in records:
        for kept in (code.imports, code.what_it_does, code.syntax_tree):
            kept.cache_clear()  # each job is a process of its own
        started = time.perf_counter()
        hashed_files(file["path"] for file in (*record["inputs"], *record["outputs"]))
        environment(1), git_state(), code_version(SCRIPTS / f"{record['rule']}.py")
        recording += time.perf_counter() - started
    total = sum(record["wall_seconds"] for record in records)
    print(f"{len(records)} jobs: {recording:.1f} s of recording in {total:.0f} s of work, {recording / total:.1%}")


if __name__ == "__main__":
    main()
