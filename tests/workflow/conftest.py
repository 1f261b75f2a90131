"""One finished run for all tests of the workflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from small_run import CONFIG, new_folder, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A folder with a finished test-size run; tests must leave it as it is."""
    folder = new_folder(tmp_path_factory.mktemp("run") / "first")
    done = snakemake(folder, "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Table 1: the entity-tracking circuit found in mini-llama" in done.stdout, "printed at the end"
    assert ".record.json" not in done.stdout + done.stderr, "nor what only the audit needs to name"
    return folder
