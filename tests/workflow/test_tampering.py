"""Whatever is changed in a finished run, the audit names it: every artefact, record and input, many times over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mechdiff.common.errors import InputError
from mechdiff.provenance.audit import audit
from small_run import RUN, copy_of

SWAPS = 200


@pytest.fixture(scope="module")
def copied(finished, tmp_path_factory) -> Path:
    """A copy of the run to tamper with; what a test changes it puts back."""
    return copy_of(finished, tmp_path_factory.mktemp("tampered") / "copy")


@pytest.fixture
def artefacts(copied, monkeypatch) -> list[Path]:
    """Every file of the run but its logs, and every input in the folder that the test is put in that no job made."""
    monkeypatch.chdir(copied)
    own = [path for path in Path(RUN).rglob("*") if path.is_file() and path.name[0] != "." and "logs" not in path.parts]
    records = [json.loads(path.read_text()) for path in own if path.name.endswith(".record.json")]
    named = {Path(file["path"]) for record in records for file in (*record["inputs"], *record["outputs"])}
    assert all(path.is_file() for path in named)
    return sorted({*own, *(path for path in named if not path.is_absolute())})


def named_by_the_audit() -> str:
    with pytest.raises(InputError) as caught:
        audit("results")
    line = str(caught.value)
    assert "\n" not in line
    return line.split(": ")[0]


def test_every_kind_of_artefact_is_there(artefacts):
    kinds = {path.suffix for path in artefacts}
    assert kinds >= {
        ".parquet",
        ".json",
        ".safetensors",
        ".csv",
        ".md",
        ".tex",
        ".txt",
        ".yaml",
        ".svg",
        ".png",
        ".html",
    }
    assert {Path(p) for p in ("resources/models/mini-goat/adapter_model.safetensors", f"{RUN}/manifest.json")} < {
        *artefacts
    }
    assert len(artefacts) > 250


def test_a_changed_byte_is_found_in_every_file(artefacts):
    rng = np.random.default_rng(0)
    for file in artefacts:
        original = file.read_bytes()
        at, by = int(rng.integers(len(original))), int(rng.integers(1, 256))
        file.write_bytes(original[:at] + bytes([original[at] ^ by]) + original[at + 1 :])
        assert named_by_the_audit() == str(file), f"byte {at} changed by {by}"
        file.write_bytes(original)
    audit("results")


def test_a_truncated_record_and_a_truncated_manifest_are_named(artefacts):
    rng = np.random.default_rng(1)
    for file in (file for file in artefacts if file.name.endswith((".record.json", "manifest.json"))):
        original = file.read_bytes()
        file.write_bytes(original[: int(rng.integers(len(original)))])
        assert named_by_the_audit() == str(file)
        file.write_bytes(original)
    audit("results")


def test_every_deleted_file_is_named(artefacts):
    for file in artefacts:
        away = file.rename("away")
        assert named_by_the_audit() == str(file)
        away.rename(file)
    audit("results")


def test_of_two_swapped_files_one_is_named(artefacts):
    rng = np.random.default_rng(2)
    swapped = 0
    while swapped < SWAPS:
        a, b = (artefacts[i] for i in rng.choice(len(artefacts), 2, replace=False))
        contents = a.read_bytes(), b.read_bytes()
        if contents[0] != contents[1]:
            a.write_bytes(contents[1])
            b.write_bytes(contents[0])
            assert named_by_the_audit() in (str(a), str(b))
            a.write_bytes(contents[0])
            b.write_bytes(contents[1])
            swapped += 1
    audit("results")


def test_a_file_that_no_record_names_is_found_in_every_folder(artefacts):
    for folder in sorted({file.parent for file in artefacts if file.is_relative_to(RUN)}):
        for name in ("more.parquet", "more.record.json"):
            (folder / name).write_text("{}")
            assert named_by_the_audit() == str(folder / name)
            (folder / name).unlink()
    audit("results")


def test_logs_are_no_artefacts(artefacts):
    log = Path(RUN, "logs", "table_1.log")
    original = log.read_text()
    log.write_text("shortened")
    audit("results")
    log.write_text(original)
