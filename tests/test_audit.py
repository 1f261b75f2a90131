"""The audit on a run of two jobs, written by hand. Real runs are tampered with in workflow/test_tampering.py."""

import json
import shutil
from pathlib import Path

import pytest

from mechdiff.audit import audit
from mechdiff.errors import InputError
from mechdiff.provenance import build_manifest, digest, file_sha256, manifest_text

RUN = "results/r"


def described(path: str) -> dict:
    return {"path": path, "sha256": file_sha256(path), "bytes": Path(path).stat().st_size}


def record(name: str, inputs: list[str], outputs: list[str]) -> None:
    value: dict[str, object] = {"rule": name, "inputs": [described(p) for p in inputs]}
    value |= {"outputs": [described(p) for p in outputs]}
    value |= {"wildcards": {}, "params": {}, "code": {}, "environment": {}, "git": None}
    Path(f"{RUN}/{name}.record.json").write_text(json.dumps(value))


def seal() -> None:
    manifest = build_manifest(RUN, [f"{RUN}/first.record.json", f"{RUN}/second.record.json"])
    Path(f"{RUN}/manifest.json").write_text(manifest_text(manifest))


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """weights.bin -> first -> scores.txt -> second -> tables/table.csv"""
    monkeypatch.chdir(tmp_path)
    Path(f"{RUN}/tables").mkdir(parents=True)
    for file, text in (("weights.bin", "w"), (f"{RUN}/scores.txt", "s"), (f"{RUN}/tables/table.csv", "t")):
        Path(file).write_text(text)
    record("first", ["weights.bin"], [f"{RUN}/scores.txt"])
    record("second", [f"{RUN}/scores.txt", "weights.bin"], [f"{RUN}/tables/table.csv"])
    seal()
    return tmp_path


def test_an_untouched_run_passes_and_its_size_is_said(run):
    found = audit("results")[RUN]
    assert (found.jobs, found.files) == (2, 3)
    assert audit(RUN)[RUN] == found


def test_a_run_on_another_disk_is_audited_and_so_is_what_a_link_in_it_leads_to(run):
    disk = run / "disk"
    Path("results/r").rename(disk)
    Path("results/r").symlink_to(disk)
    assert audit("results")[RUN].jobs == 2
    (run / "more").mkdir()
    (run / "more" / "forged.csv").write_text("x")
    (disk / "more").symlink_to(run / "more")
    (disk / "more" / "again").symlink_to(disk)
    with pytest.raises(InputError, match=r"^results/r/more/forged\.csv: no record of this run names it"):
        audit("results")


def test_it_does_not_matter_from_where_the_run_is_named(run, monkeypatch):
    monkeypatch.chdir(RUN)
    assert [found.jobs for found in audit("..").values()] == [2]


def test_where_two_files_are_wrong_the_one_nearer_the_beginning_is_named(run):
    Path(f"{RUN}/tables/table.csv").write_text("forged")
    Path(f"{RUN}/scores.txt").write_text("forged")
    with pytest.raises(InputError, match=r"^results/r/scores\.txt: does not match"):
        audit("results")


def test_a_job_that_read_another_version_than_was_made_is_named(run):
    Path(f"{RUN}/scores.txt").write_text("newer")
    record("second", [f"{RUN}/scores.txt"], [f"{RUN}/tables/table.csv"])
    seal()
    Path(f"{RUN}/scores.txt").write_text("s")
    with pytest.raises(InputError, match=r"^results/r/scores\.txt: .*second\.record\.json read another version"):
        audit("results")


def test_two_jobs_that_read_different_weights_are_found(run):
    Path("weights.bin").write_text("other")
    record("second", [f"{RUN}/scores.txt", "weights.bin"], [f"{RUN}/tables/table.csv"])
    seal()
    with pytest.raises(InputError, match=r"^weights\.bin: does not match"):
        audit("results")
    Path("weights.bin").write_text("w")
    with pytest.raises(InputError, match=r"^weights\.bin: does not match"):
        audit("results")


def test_a_changed_record_and_a_changed_manifest_are_named(run):
    file = Path(f"{RUN}/first.record.json")
    text = file.read_text()
    file.write_text(text.replace('"first"', '"fjrst"'))
    with pytest.raises(InputError, match=r"^results/r/first\.record\.json: does not match"):
        audit("results")
    file.write_text(text)
    manifest = Path(f"{RUN}/manifest.json")
    manifest.write_text(manifest.read_text().replace("second", "sekond"))
    with pytest.raises(InputError, match=r"results/r/manifest\.json: does not have the digest it was sealed with"):
        audit("results")


def test_a_table_that_no_job_made_is_named(run):
    Path(f"{RUN}/tables/table_2.csv").write_text("forged")
    with pytest.raises(InputError, match=r"^results/r/tables/table_2\.csv: no record of this run names it"):
        audit("results")


def test_a_copy_elsewhere_is_not_mistaken_for_the_run(run):
    shutil.copytree("results", "copied")
    Path("copied/r/tables/table.csv").write_text("forged")
    with pytest.raises(InputError, match=r"copied/r/manifest\.json: is the manifest of results/r"):
        audit("copied")


def test_results_may_be_a_link_to_another_disk(run, tmp_path):
    shutil.move("results", "scratch")
    Path("results").symlink_to(tmp_path / "scratch")
    assert audit("results/r")["results/r"].jobs == 2


def test_tables_of_an_unfinished_run_and_no_run_at_all_are_said(run):
    Path(f"{RUN}/manifest.json").unlink()
    with pytest.raises(InputError, match=r"^results/r/manifest\.json: missing, so there is no finished run"):
        audit("results")
    Path("results/r2/tables").mkdir(parents=True)
    Path("results/r2/tables/table.csv").write_text("t")
    seal()
    with pytest.raises(InputError, match=r"^results/r2/manifest\.json: missing"):
        audit("results")
    with pytest.raises(InputError, match=r"^nothing: no manifest\.json in it, so no finished run"):
        audit("nothing")


def test_a_folder_called_tables_deeper_in_a_run_is_no_other_run(run):
    Path(f"{RUN}/crate/workflow/mechdiff/tables").mkdir(parents=True)
    assert audit("results")[RUN].jobs == 2


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[1", "cannot be read as a record"),
        (b"\xff", "cannot be read as a record"),
        (b"[1]", "does not have the digest"),
        (manifest_text({"digest": digest({})}).encode(), "is no manifest of a run"),
    ],
)
def test_a_manifest_that_is_none_is_named(run, content, line):
    Path(f"{RUN}/manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"^results/r/manifest\.json: {line}"):
        audit("results")


def test_a_manifest_written_in_another_form_was_not_sealed_so(run):
    file = Path(f"{RUN}/manifest.json")
    file.write_text(file.read_text().replace("\n", "\t", 1))
    with pytest.raises(InputError, match=r"^results/r/manifest\.json: is not written as it was sealed"):
        audit("results")


@pytest.mark.parametrize("content", ["[1", "[]", "{}", '{"inputs": {}, "outputs": 3}'])
def test_a_sealed_record_that_is_none_is_named(run, content):
    Path(f"{RUN}/first.record.json").write_text(content)
    seal()
    with pytest.raises(InputError, match=r"^results/r/first\.record\.json: (cannot be read as a|is no) record"):
        audit("results")


def test_a_file_of_the_run_that_was_read_and_that_no_job_made_is_named(run):
    record("first", ["weights.bin"], [])
    seal()
    with pytest.raises(InputError, match=r"^results/r/scores\.txt: .*second\.record\.json read it, and no record says"):
        audit("results")


def test_two_jobs_cannot_have_made_one_file_nor_any_job_what_it_needs(run):
    record("second", [f"{RUN}/scores.txt"], [f"{RUN}/scores.txt", f"{RUN}/tables/table.csv"])
    seal()
    with pytest.raises(
        InputError, match=r"^results/r/scores\.txt: both .*first.* and .*second.* say that they made it"
    ):
        audit("results")
    record("first", [f"{RUN}/tables/table.csv"], [f"{RUN}/scores.txt"])
    record("second", [f"{RUN}/scores.txt"], [f"{RUN}/tables/table.csv"])
    seal()
    with pytest.raises(InputError, match=r"^results/r/first\.record\.json: its job would need what it makes itself"):
        audit("results")


def test_a_leftover_anywhere_in_the_run_is_named_and_logs_and_what_tells_of_the_run_are_not(run):
    for file in ("logs/first.log", "report.html", "ro-crate-preview.html", "tables/.hidden"):
        Path(RUN, file).parent.mkdir(exist_ok=True)
        Path(RUN, file).write_text("")
    audit("results")
    for name in ("older.txt", "older.csv", "oldest.csv"):
        Path(RUN, name).write_text("")
    line = "results/r/older.csv: no record of this run names it, nor 2 others; delete what an earlier config left"
    with pytest.raises(InputError, match=f"^{line}$"):
        audit("results")
