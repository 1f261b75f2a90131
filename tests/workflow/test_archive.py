"""A run in one file: packed, unpacked on another machine, audited there."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mechdiff.common.errors import InputError
from mechdiff.provenance.archive import archive, audit_archive
from mechdiff.provenance.audit import audit
from micro import ROOT
from small_run import RUN, copy_of, mechdiff

OUTSIDE = [
    str(ROOT / "resources" / "paper.yaml"),  # the product's, which is not where these runs are
    "resources/models/mini-goat/adapter_model.safetensors",
    "resources/models/mini-llama/model.safetensors",
    f"{RUN}/models/mini-goat/means.safetensors",
    f"{RUN}/models/mini-llama/means.safetensors",
]


@pytest.fixture(scope="module")
def packed(finished, tmp_path_factory) -> Path:
    """The archive of the run, with a report and a crate in its folder."""
    folder = copy_of(finished, tmp_path_factory.mktemp("packed") / "copy")
    (folder / RUN / "report.html").write_text("<p>a report</p>")
    (folder / RUN / "ro-crate-preview.html").write_text("{}")
    file = folder.parent / "run.zip"
    done = mechdiff(folder, "archive", RUN, str(file))
    assert done.returncode == 0, done.stderr
    return file


@pytest.fixture
def elsewhere(packed, tmp_path) -> Path:
    """The archive unpacked in a folder that has nothing else."""
    with zipfile.ZipFile(packed) as file:
        file.extractall(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def test_an_archive_has_everything_but_weights_and_activations(finished, packed):
    names = zipfile.ZipFile(packed).namelist()
    records = json.loads((finished / RUN / "manifest.json").read_text())["records"]
    made = [json.loads((finished / name).read_text()) for name in records]
    files = {file["path"] for record in made for file in (*record["inputs"], *record["outputs"])}
    beside = {f"{RUN}/{name}" for name in ("manifest.json", "archive.json", "report.html", "ro-crate-preview.html")}
    beside.add("__main__.py")
    assert sorted(names) == names
    assert set(names) == (files - set(OUTSIDE)) | set(records) | beside


def test_it_audits_by_itself_and_says_what_is_outside(finished, packed, tmp_path):
    done = mechdiff(tmp_path, "audit", str(packed))
    assert done.returncode == 0, done.stderr
    first, second, *outside = done.stdout.splitlines()
    (whole,) = audit(finished / "results").values()
    (found,) = audit_archive(packed).values()
    assert first == f"{RUN}: {found.files} files of {found.jobs} jobs match their records; digest {found.digest}"
    assert (found.files + len(OUTSIDE), found.jobs, found.digest) == (whole.files, whole.jobs, whole.digest)
    assert second == f"outside the archive, known by sha256 alone: {len(OUTSIDE)} files"
    assert [line.split()[0] for line in outside] == OUTSIDE
    assert all(len(line.split()[1]) == 64 for line in outside)


@pytest.mark.parametrize("unpack", [False, True])
def test_it_needs_python_alone(packed, elsewhere, tmp_path, unpack):
    bare = [sys.executable, "-I", "-S", str(elsewhere if unpack else packed)]  # no package installed
    done = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "match their records; digest" in done.stdout, done.stderr
    assert not list((elsewhere / RUN).rglob("__pycache__"))
    (elsewhere / RUN / "tables" / "table_1.csv").write_text("forged")
    if not unpack:
        forged = {f"{RUN}/tables/table_1.csv": b"forged"}
        bare[-1] = str(repacked(packed, tmp_path / "forged.zip", lambda c: c.update(forged)))
    done = subprocess.run(bare, cwd=tmp_path, capture_output=True, text=True)
    of = "" if unpack else f"{bare[-1]}: "
    line = f"mechdiff: {of}{RUN}/tables/table_1.csv: does not match its recorded sha256"
    assert done.returncode == 1 and done.stderr.startswith(line) and done.stderr.count("\n") == 1


def test_unpacked_elsewhere_it_audits_and_explains_the_same(finished, elsewhere):
    (found,) = audit(elsewhere).values()
    assert [file["path"] for file in found.outside] == OUTSIDE
    asked = ["explain", f"{RUN}/tables/table_1.csv", "--row", "mini-goat", "--column", "faithfulness"]
    there = mechdiff(elsewhere, *asked)
    assert there.returncode == 0 and there.stdout == mechdiff(finished, *asked).stdout
    assert mechdiff(elsewhere, "diff", RUN, str(finished / RUN)).stdout.count("\n") == 1


def test_weights_put_beside_it_are_verified_too(finished, elsewhere):
    weights = elsewhere / OUTSIDE[1]
    shutil.copy(finished / OUTSIDE[1], weights)
    (found,) = audit(elsewhere).values()
    assert [file["path"] for file in found.outside] == [OUTSIDE[0], *OUTSIDE[2:]]
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"^{OUTSIDE[1]}: does not match its recorded sha256"):
        audit(elsewhere)


def test_the_same_run_gives_the_same_bytes_also_from_its_unpacked_archive(packed, elsewhere, tmp_path):
    archive(packed.parent / "copy" / RUN, tmp_path / "again.zip")
    archive(elsewhere / RUN, tmp_path / "from_archive.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()
    assert (tmp_path / "from_archive.zip").read_bytes() == packed.read_bytes()


def test_a_byte_changed_in_any_file_of_it_is_named(elsewhere, monkeypatch):
    monkeypatch.chdir(elsewhere)
    rng = np.random.default_rng(0)
    for file in sorted(path for path in Path().rglob("*") if path.is_file()):
        original = file.read_bytes()
        at, by = int(rng.integers(len(original))), int(rng.integers(1, 256))
        file.write_bytes(original[:at] + bytes([original[at] ^ by]) + original[at + 1 :])
        with pytest.raises(InputError) as caught:
            audit(".")
        assert str(caught.value).startswith(f"{file}: "), file
        file.write_bytes(original)
    audit(".")


def test_a_byte_changed_inside_the_zip_is_named(packed, tmp_path):
    rng = np.random.default_rng(1)
    original, broken = packed.read_bytes(), tmp_path / "broken.zip"
    entries = [entry for entry in zipfile.ZipFile(packed).infolist() if entry.file_size]
    for i in rng.choice(len(entries), 40, replace=False):
        content = entries[i].header_offset + 30 + len(entries[i].filename)
        at = content + int(rng.integers(entries[i].compress_size - 1))  # the last byte is padded
        broken.write_bytes(original[:at] + bytes([original[at] ^ 1]) + original[at + 1 :])
        with pytest.raises(InputError, match=f"^{broken}: {entries[i].filename}: "):
            audit_archive(broken)


def repacked(packed: Path, to: Path, change) -> Path:
    """An archive with other files in it: change(name -> content)."""
    with zipfile.ZipFile(packed) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    change(contents)
    with zipfile.ZipFile(to, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return to


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c.pop("config/objects.txt"), "config/objects.txt: missing"),
        (lambda c: c.pop(f"{RUN}/report.html"), f"{RUN}/report.html: missing"),
        (lambda c: c.pop("__main__.py"), "__main__.py: missing"),
        (lambda c: c.pop(f"{RUN}/archive.json"), f"{RUN}/archive.json: missing"),
        (lambda c: c.update({"config/more.txt": b"x"}), "config/more.txt: does not belong into this archive"),
        (lambda c: c.update({"../more.txt": b"x"}), "../more.txt: does not belong into this archive"),
        (
            lambda c: c.update({f"{RUN}/tables/x.csv": b"x"}),
            f"{RUN}/tables/x.csv: no record of this run names it; delete what an earlier config left",
        ),
    ],
)
def test_a_file_that_is_missing_or_does_not_belong_is_named(packed, tmp_path, change, line):
    done = mechdiff(tmp_path, "audit", str(repacked(packed, tmp_path / "other.zip", change)))
    assert (done.returncode, done.stderr) == (1, f"mechdiff: {tmp_path / 'other.zip'}: {line}\n")


def entry(name: str, mode: int = 0, **more: int) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    for key, value in more.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize(
    ("more", "content", "named"),
    [
        (entry(f"{RUN}/manifest.json"), b"x", f"{RUN}/manifest.json: does not belong"),
        (entry(f"{RUN}/./manifest.json"), b"x", f"{RUN}/./manifest.json: does not belong"),
        (entry(f"{RUN}//more"), b"x", f"{RUN}//more: does not belong"),
        (entry(f"{RUN.upper()}/more"), b"x", f"{RUN.upper()}/more: does not belong"),
        (entry(f"{RUN}\\more"), b"x", f"{RUN}\\\\more: does not belong".replace("\\\\", "\\")),
        (entry("/etc/more"), b"x", "/etc/more: does not belong"),
        (entry("a/../../more"), b"x", "a/../../more: does not belong"),
        (entry(f"{RUN}/more/"), b"x", f"{RUN}/more/: does not belong"),
        (entry(f"{RUN}/manifest.json/x"), b"x", f"{RUN}/manifest.json/x: cannot be unpacked"),
        (entry("n" * 300), b"x", "n" * 300),
        (entry("more", stat.S_IFLNK | 0o777), b"/etc/hostname", "more: is no regular file"),
        (entry("more", stat.S_IFIFO | 0o644), b"", "more: is no regular file"),
        (entry("more", compress_type=zipfile.ZIP_LZMA), b"x", "more: packed by method 14"),
        (entry("more", compress_type=zipfile.ZIP_DEFLATED), bytes(500_000_000), "unpacks to 50"),
        (entry("a\nb"), b"x", "a b: does not belong"),
        (entry(""), b"x", ": does not belong"),
    ],
    ids=range(16),
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_an_archive_cannot_have_is_named_with_the_archive(packed, tmp_path, more, content, named):
    other = Path(shutil.copy(packed, tmp_path / "other.zip"))
    with zipfile.ZipFile(other, "a") as file:
        file.writestr(more, content, more.compress_type)
    done = mechdiff(tmp_path, "audit", str(other))
    assert done.returncode == 1 and done.stderr.startswith(f"mechdiff: {other}: {named}"), done.stderr
    assert done.stderr.count("\n") == 1 and tempfile.gettempdir() not in done.stderr.replace(str(other), "")


def test_an_encrypted_file_and_a_name_that_goes_on_after_its_end_are_named(packed, tmp_path):
    other, name = tmp_path / "other.zip", f"{RUN}/README.md"
    for change, line in (
        (lambda c: c.replace(b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\1\0"), "cannot be unpacked"),
        (lambda c: c.replace(name.encode(), name[:-3].encode() + b"\0md"), "does not belong"),
    ):
        other.write_bytes(change(packed.read_bytes()))
        done = mechdiff(tmp_path, "audit", str(other))
        assert done.returncode == 1 and line in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_folder_called_as_an_archive_is_audited_as_a_folder(elsewhere):
    folder = elsewhere.rename(elsewhere.with_name("run.zip"))
    assert mechdiff(folder.parent, "audit", "run.zip").returncode == 0


def test_packed_again_by_another_program_it_still_audits(packed, elsewhere, tmp_path):
    again = shutil.make_archive(str(tmp_path / "again"), "zip", elsewhere)
    assert audit_archive(again) == audit_archive(packed)


def test_what_is_no_archive_is_said(finished):
    done = mechdiff(finished, "audit", "config/test.yaml")
    assert done.returncode == 1
    assert done.stderr.startswith("mechdiff: config/test.yaml: no archive that can be read (File is not a zip file)")
    assert done.stderr.count("\n") == 1


def test_an_archive_is_written_whole_or_not_at_all(finished, tmp_path):
    folder = copy_of(finished, tmp_path / "copy")
    (folder / RUN / "tables" / "table_1.csv").write_text("forged")
    old = tmp_path / "run.zip"
    old.write_text("what was there")
    with pytest.raises(InputError, match=r"^results/test/tables/table_1\.csv: does not match"):
        archive(folder / RUN, old)
    assert old.read_text() == "what was there"
    done = mechdiff(finished, "archive", RUN, str(tmp_path / "none" / "run.zip"))
    assert done.returncode == 1 and done.stderr.startswith("mechdiff: ") and done.stderr.count("\n") == 1
    done = mechdiff(finished, "archive", RUN, str(tmp_path / "run.tar"))
    assert "run.tar: no name for an archive; allowed: " in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "run.zip"]


def test_the_list_of_an_archive_is_that_of_its_run(elsewhere):
    listing = elsewhere / RUN / "archive.json"
    told = json.loads(listing.read_text())
    assert [file["path"] for file in told["outside"]] == OUTSIDE
    assert set(told["beside"]) == {f"{RUN}/report.html", f"{RUN}/ro-crate-preview.html"}
    for change in ({"digest": "0"}, {"outside": []}, {"beside": {f"{RUN}/x": "0"}}, {"beside": 3}):
        listing.write_text(json.dumps(told | change, indent=2, sort_keys=True) + "\n")
        with pytest.raises(InputError, match=r"^results/test/archive\.json: is (no list|not the list)"):
            audit(elsewhere)
