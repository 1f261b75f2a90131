"""The audit on a run of two jobs, written by hand. Real runs are tampered with in workflow/test_tampering.py."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mechdiff.cli import main
from mechdiff.common.errors import InputError
from mechdiff.common.files import digest, file_sha256
from mechdiff.provenance.archive import archive, audit_archive
from mechdiff.provenance.audit import audit
from mechdiff.provenance.records import build_manifest, manifest_text
from mechdiff.provenance.sealed import in_order, open_run

RUN = "results/r"


def described(path: str) -> dict:
    return {"path": path, "sha256": file_sha256(path), "bytes": Path(path).stat().st_size}


def record(name: str, inputs: list[str], outputs: list[str]) -> None:
    value: dict[str, object] = {"rule": name, "inputs": [described(p) for p in inputs]}
    value |= {"outputs": [described(p) for p in outputs]}
    value |= {"wildcards": {}, "params": {}, "code": {"version": "1", "modules": {}}}
    value |= {"environment": {"packages": {}}, "git": None}
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
    with pytest.raises(InputError, match=r"^results/r/more: no record of this run names it"):
        audit("results")
    (disk / "more").unlink()
    (disk / "tables").rename(run / "tables")
    (disk / "tables").symlink_to(run / "tables")
    assert audit("results")[RUN].jobs == 2
    (run / "tables" / "forged.csv").write_text("x")
    with pytest.raises(InputError, match=r"^results/r/tables/forged\.csv: no record of this run names it"):
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


def link_to(target: str):
    return lambda path: Path(path).symlink_to(target)


def unix_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)


NO_FILES = {
    "a pipe": os.mkfifo,
    "a socket": unix_socket,
    "a device": link_to("/dev/zero"),
    "a dangling link": link_to("nowhere"),
    "a link to itself": lambda path: Path(path).symlink_to(Path(path).name),
    "a link to everything": link_to("/"),
    "a folder": os.mkdir,
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("place", ["weights.bin", "scores.txt", "first.record.json", "manifest.json"])
def test_what_is_no_file_is_named_in_the_place_of_one_and_never_waited_for(run, kind, place):
    file = Path(place if place == "weights.bin" else f"{RUN}/{place}")
    file.unlink()
    NO_FILES[kind](str(file))
    for command in (audit, open_run, lambda folder: archive(folder, "x.zip")):
        if command is open_run and "json" not in place:
            continue  # what records name is hashed by those who read it
        with pytest.raises(InputError, match=rf"^{file}: (missing|is no regular file|is a folder|cannot be read)"):
            command(RUN)
    assert not list(Path().glob("x.zip*"))


@pytest.mark.parametrize("kind", [kind for kind in NO_FILES if kind != "a folder"])
@pytest.mark.parametrize("name", ["more", "tables/more.csv", "report.html", "archive.json"])
def test_what_is_no_file_is_named_where_there_should_be_none(run, kind, name):
    NO_FILES[kind](f"{RUN}/{name}")
    with pytest.raises(InputError, match=rf"^{RUN}/{name}: "):
        audit("results")


def test_a_link_to_the_same_bytes_is_the_same_file_and_folders_that_hold_no_file_are_not_looked_at(run):
    Path(f"{RUN}/scores.txt").rename("elsewhere.txt")
    Path(f"{RUN}/scores.txt").symlink_to(run / "elsewhere.txt")
    Path(f"{RUN}/more/and/more").mkdir(parents=True)
    audit("results")
    Path("elsewhere.txt").write_text("forged")
    with pytest.raises(InputError, match=r"^results/r/scores\.txt: does not match"):
        audit("results")


DEEP = "[" * 200 + "]" * 200
DEEPER = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text",
    [DEEP, DEEPER, "NaN", "Infinity", "9" * 5000, '{"rule": 1, "rule": 2}', "\ufeff{}", "{} {}", ""],
    ids=["deep", "deeper", "nan", "infinity", "huge", "twice", "byte order mark", "two values", "empty"],
)
@pytest.mark.parametrize("name", ["first.record.json", "manifest.json", "archive.json"])
def test_json_that_is_no_value_of_ours_is_named(run, name, text):
    Path(f"{RUN}/{name}").write_text(text)
    if name == "first.record.json":
        seal()
    with pytest.raises(InputError, match=rf"^{RUN}/{name}: cannot be read as a record"):
        audit("results")


@pytest.mark.parametrize("name", ["manifest.json", "archive.json"])
def test_line_ends_are_bytes_as_others(run, name):
    Path("results/r/archive.json").write_text("{}")
    file = Path(f"{RUN}/{name}")
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    with pytest.raises(InputError, match=rf"^{RUN}/{name}: is (not written as it was sealed|no list)"):
        audit("results")


def resealed(change) -> None:
    """Seal the run again with another first record: change(record)."""
    value = json.loads(Path(f"{RUN}/first.record.json").read_text())
    change(value)
    Path(f"{RUN}/first.record.json").write_text(json.dumps(value))
    seal()


@pytest.mark.parametrize("path", ["/etc/hostname", "../x", "results/r/../r/more.txt", "./x", "results//r/x", "", "."])
def test_what_a_job_made_is_named_in_one_way_and_below_the_root(run, path):
    resealed(lambda record: record["outputs"].append({"path": path, "sha256": "0", "bytes": 1}))
    with pytest.raises(InputError, match=r"^results/r/first\.record\.json: is no record of a job"):
        audit("results")


@pytest.mark.parametrize("path", ["x\0y", "n" * 5000, "a\nb", "\ud800", "weights.bin/x", ""])
def test_a_path_that_no_file_can_have_is_one_line(run, capsys, path):
    resealed(lambda record: record["inputs"].append({"path": path, "sha256": "0", "bytes": 1}))
    assert main(["audit", "results"]) == 1
    out, err = capsys.readouterr()
    assert not out and err.startswith("mechdiff: ") and err.count("\n") == 1 and err.strip().isprintable()


def test_a_file_of_the_run_is_one_whichever_way_it_is_named(run):
    resealed(lambda record: record["inputs"].append(described(f"results/../{RUN}/tables/../scores.txt")))
    with pytest.raises(InputError, match="no record says which job made it"):
        audit("results")


@pytest.mark.parametrize(
    "name", ["{root}/results/r/more.txt", "linked/more.txt", "more", "../{folder}/results/r/more.txt"]
)
def test_a_file_of_the_run_is_its_own_by_its_whole_path_and_by_a_link(run, name):
    Path(f"{RUN}/more.txt").write_text("m")
    Path("linked").symlink_to(RUN)
    Path("more").symlink_to(f"{RUN}/more.txt")
    path = name.format(root=run, folder=run.name)
    resealed(lambda record: record["inputs"].append(described(path)))
    with pytest.raises(InputError, match=f"^{re.escape(path)}: {RUN}/first.record.json read it, and no record says"):
        audit("results")
    Path("elsewhere").write_text("m")
    resealed(lambda record: record["inputs"][-1].update(path=str(run / "elsewhere")))
    Path(f"{RUN}/more.txt").unlink()
    assert audit("results")[RUN].files == 4


def test_a_job_makes_no_record_but_its_own(run):
    record("second", [f"{RUN}/scores.txt"], [f"{RUN}/tables/table.csv", f"{RUN}/first.record.json"])
    seal()
    line = f"{RUN}/first.record.json: is a record, and {RUN}/second.record.json says that its own job made it"
    with pytest.raises(InputError, match=f"^{line}$"):
        audit("results")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("inputs", [{"path": "x", "sha256": 3, "bytes": 1}]),
        ("inputs", [{"path": "x", "sha256": "0"}]),
        ("wildcards", None),
        ("params", []),
        ("code", {}),
        ("environment", {}),
        ("git", {}),
        ("git", "main"),
    ],
)
def test_a_record_has_what_those_who_read_it_need(run, key, value):
    resealed(lambda record: record.update({key: value}))
    with pytest.raises(InputError, match=r"^results/r/first\.record\.json: is no record of a job"):
        audit("results")


@pytest.mark.parametrize(
    "change", [{"run": ""}, {"run": "/r"}, {"run": "../r"}, {"records": {"/x": "0"}}, {"records": {"x": 0}}]
)
def test_a_manifest_tells_of_what_is_below_its_root(run, change):
    value = json.loads(Path(f"{RUN}/manifest.json").read_text()) | change
    del value["digest"]
    Path(f"{RUN}/manifest.json").write_text(manifest_text(value | {"digest": digest(value)}))
    with pytest.raises(InputError, match=r"^results/r/manifest\.json: is no manifest of a run"):
        audit("results")


def chain(length: int) -> dict[str, dict]:
    """Records of jobs each of which reads what the next one wrote."""
    common = json.loads(Path(f"{RUN}/first.record.json").read_text())

    def file(i: int) -> dict:
        return {"path": f"results/r/{i}", "sha256": "0", "bytes": 1}

    return {f"{i}.json": common | {"inputs": [file(i + 1)], "outputs": [file(i)]} for i in range(length)}


def test_a_chain_of_jobs_can_be_longer_than_calls_can_be_deep(run):
    length = 20 * sys.getrecursionlimit()
    assert list(in_order(chain(length))) == [f"{i}.json" for i in reversed(range(length))]


@pytest.mark.parametrize("name", ["x.zip", "tables/x.zip", "../s/x.zip"])
def test_an_archive_is_not_written_into_a_run(run, name):
    shutil.copytree(RUN, "results/s")
    before = sorted(Path("results").rglob("*"))
    with pytest.raises(InputError, match=r"x\.zip: in the folder of a run"):
        archive(RUN, f"{RUN}/{name}")
    assert sorted(Path("results").rglob("*")) == before


def test_names_that_are_no_text_are_told_in_one_line(run, capsys):
    Path(f"{RUN}/a\nb").write_text("")
    Path(os.fsdecode(f"{RUN}/a\nb".encode() + b"\xff")).write_text("")
    assert main(["audit", "results"]) == 1
    assert capsys.readouterr().err.startswith("mechdiff: results/r/a b: no record of this run names it, nor 1 others")


def test_an_archive_looks_at_no_file_that_is_not_below_its_root(run):
    """It may be there by chance: the archive is of another machine."""
    program = f"{RUN}/crate/workflow/mechdiff/provenance/self_audit.py"
    Path(program).parent.mkdir(parents=True)
    for file in (program, "objects.txt"):
        Path(file).write_text("")
    paths = [str(run / "objects.txt"), f"../{run.name}/objects.txt"]
    record("first", ["weights.bin", *paths], [f"{RUN}/scores.txt", program])
    seal()
    archive(RUN, "r.zip")
    for path in paths:
        assert path in {file["path"] for file in audit_archive("r.zip")[RUN].outside}
    Path("objects.txt").write_text("of this machine")
    audit_archive("r.zip")
    with zipfile.ZipFile("r.zip") as packed:
        packed.extractall(run.parent / "unpacked")
    audit(run.parent / "unpacked")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["results/", "results/r/", "empty/", "results/r/empty/"])
def test_an_entry_of_a_folder_in_an_archive_is_passed_over_and_a_file_of_that_name_is_not(run, name):
    program = f"{RUN}/crate/workflow/mechdiff/provenance/self_audit.py"
    Path(program).parent.mkdir(parents=True)
    Path(program).write_text("")
    record("first", ["weights.bin"], [f"{RUN}/scores.txt", program])
    seal()
    archive(RUN, "r.zip")
    for content, passes in (("", True), ("hidden", False)):
        with zipfile.ZipFile("r.zip", "a") as packed:
            packed.writestr(name, content)
        if passes:
            assert audit_archive("r.zip")[RUN].jobs == 2
        else:
            with pytest.raises(InputError, match=rf"^r\.zip: {name}: does not belong into this archive"):
                audit_archive("r.zip")


def test_a_record_that_gives_another_size_is_named(run):
    file = Path(RUN) / "first.record.json"
    value = json.loads(file.read_text())
    value["outputs"][0]["bytes"] += 1
    file.write_text(json.dumps(value))
    seal()
    with pytest.raises(InputError, match=f"^{value['outputs'][0]['path']}: has .* bytes, its record says"):
        audit("results")


def test_a_thousand_folders_in_one_another_are_no_traceback(run):
    top = deep = Path(RUN, "x")
    for _ in range(1200):
        deep.mkdir()
        deep = deep / "x"
    (top / "x" / "stray").touch()
    try:
        with pytest.raises(InputError, match=f"^{RUN}/x/x/stray: no record of this run names it"):
            audit("results")
    finally:
        subprocess.run(["rm", "-r", top], check=True)  # pytest cannot


def test_a_file_that_cannot_be_read_to_its_end_is_named(run):
    scores = Path(RUN) / "scores.txt"
    scores.unlink()
    scores.symlink_to("/proc/self/mem")  # it can be opened, and its first byte cannot be read
    with pytest.raises(InputError, match=f"^{RUN}/scores.txt: "):
        audit("results")
