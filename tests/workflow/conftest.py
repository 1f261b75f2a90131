"""One finished run for all tests of the workflow."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

from small_run import CONFIG, new_folder, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder with a finished test-size run; tests must leave it as it is.

    Where pytest runs in several processes the first to need the run makes it, and the others wait for it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all processes
    folder = shared / "finished"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            part = new_folder(shared / "finished.part")
            done = snakemake(part, "--configfile", CONFIG)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "Table 1: the entity-tracking circuit found in mini-llama" in done.stdout, "printed at the end"
            assert ".record.json" not in done.stdout + done.stderr, "nor what only the audit needs to name"
            part.rename(folder)
    return folder
