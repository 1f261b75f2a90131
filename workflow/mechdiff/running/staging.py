"""Outputs of a job, whole or not at all, whenever it is killed.

1. A job writes into a hidden folder beside each output, under the outputs' own names.
2. When it ends well they are moved into place, one rename each, the last one (the record) last.
3. What a killed job left hidden is removed when the same job is done again.

A file in its place is always whole. A job that was killed between two renames lacks its record and is done again.

A job can outlive the run that sent it: killed outright, Snakemake leaves its jobs to the machine or in a cluster's
queue. Once the next run has taken over (:mod:`mechdiff.running.locks`) such a job writes nothing more.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from mechdiff.common.errors import InputError

SENT_BY = "MECHDIFF_RUN"  # environment variable: a folder that is there for as long as the run that sent this job


@contextmanager
def staged(outputs: list[str], last: str | None = None) -> Iterator[dict[str, Path]]:
    """Output -> where to write it meanwhile. ``last``: the output that is moved after the others.

    Raises InputError when the run that sent this job is over, OSError when a file cannot be moved.
    """
    require_run()
    folders: dict[Path, Path] = {}
    try:
        for parent in {Path(output).parent for output in outputs}:
            prefix = f".{Path(outputs[0]).name}~"  # no name has a ~: another job's x.json.y is not of x.json
            for left in parent.glob(f"{prefix}*.part"):
                shutil.rmtree(left, ignore_errors=True)
            folders[parent] = Path(mkdtemp(prefix=prefix, suffix=".part", dir=parent))
        places = {output: folders[Path(output).parent] / Path(output).name for output in outputs}
        yield places
        require_run()
        for output in sorted(outputs, key=lambda output: output == last):
            places[output].replace(output)
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def require_run() -> None:
    """InputError when the run that sent this job is over."""
    run = os.environ.get(SENT_BY)
    if run and Path(run).parent.is_dir() and not Path(run).exists():
        raise InputError("the run that sent this job is over and another may have its place: nothing is written")
