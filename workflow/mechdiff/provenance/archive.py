"""A run in one file that audits by itself on another machine.

1. The run is audited; what does not pass is not archived.
2. Packed is every file that a record names, the records and the manifest, the report and the preview where they are in
   the run's folder, and a program that audits all of it where there is nothing but Python. Left out are weights and
   activations, and what is not below the folder that the run was made in: ``archive.json`` lists them with sha256 and
   size.
3. Names are sorted and times fixed: the same run gives the same bytes. Each file is hashed again as it is packed.
4. The archive is written whole or not at all.

An archive is audited by unpacking it to a temporary folder and auditing that: every file in it must be one that belongs
there, and every file that belongs there must be in it.
"""

from __future__ import annotations

import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from os.path import lexists
from pathlib import Path

from mechdiff.common.errors import InputError
from mechdiff.common.files import file_sha256, naming
from mechdiff.provenance.audit import (
    BESIDE,
    LISTING,
    PROGRAM,
    TABLES,
    Audit,
    audit,
    audit_run,
    listing_text,
    outside_files,
    program,
    recorded_files,
)
from mechdiff.provenance.sealed import MANIFEST, SealedRun, is_below, open_run, stays_outside

EARLIEST = (1980, 1, 1, 0, 0, 0)  # that a zip file can tell
MOST_TIMES = 100  # as large as itself an archive may unpack to; those of runs unpack to two or three times
ALIEN = "does not belong into this archive"
UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OSError)


def archive(folder: str | Path, file: str | Path) -> Audit:
    """Pack a finished run, by its folder, into a zip file; returns what was verified of it."""
    if Path(file).suffix != ".zip" or Path(file).is_dir():
        raise InputError(f"{file}: no name for an archive; allowed: that of a file, one that ends in .zip")
    for above in Path(file).resolve().parents:
        if (above / MANIFEST).is_file() and (above / TABLES).is_dir():
            raise InputError(f"{file}: in the folder of a run, which must have no other file; allowed: outside {above}")
    found, run = audit_run(folder), open_run(folder)
    part = Path(f"{file}.part")
    try:
        with naming(file), zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in _contents(run):
                entry = zipfile.ZipInfo(name, EARLIEST)
                entry.external_attr, entry.create_system = 0o644 << 16, 3  # as on Unix, wherever it is made
                packed.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    recorded = recorded_files(run)
    outside = outside_files(recorded)
    return replace(found, files=len(recorded) - len(outside), outside=tuple(outside))


def audit_archive(file: str | Path) -> dict[str, Audit]:
    """Verify every file in an archive. Raises InputError that names the archive and the first that does not match."""
    with unpacked(file) as folder:
        for manifest in sorted(folder.rglob(MANIFEST)):
            listing = manifest.with_name(LISTING)
            if not listing.is_file():
                raise InputError(f"{listing.relative_to(folder)}: missing")
        found = audit(folder)
        expected = {name for run in found for name in _names(open_run(run))}
        inside = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        if inside != expected:
            name = min(inside ^ expected)
            raise InputError(f"{name}: " + ("missing" if name in expected else ALIEN))
        return {Path(run).relative_to(folder).as_posix(): each for run, each in found.items()}


@contextmanager
def unpacked(file: str | Path) -> Iterator[Path]:
    """The files of an archive in a temporary folder; errors then name the archive and the file in it.

    Raises InputError that names the first that cannot be read, or that an archive cannot have.
    """
    with tempfile.TemporaryDirectory() as temporary:
        try:
            packed = zipfile.ZipFile(file)
        except UNREADABLE as error:
            allowed = "allowed: an archive, a run's folder, or one above it"
            raise InputError(f"{file}: no archive that can be read ({error}); {allowed}") from error
        try:
            with packed:
                entries = packed.infolist()
                size, most = sum(entry.file_size for entry in entries), MOST_TIMES * Path(file).stat().st_size
                if size > most:
                    raise InputError(f"unpacks to {size} bytes; allowed: {MOST_TIMES} times its own size, {most}")
                for entry in entries:
                    _unpack(packed, entry, Path(temporary, entry.filename))
            yield Path(temporary)
        except (InputError, OSError) as error:
            line = str(error).replace(f"{temporary}/", "").replace(temporary, "its files")
            raise InputError(f"{file}: {line}") from error


def _unpack(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, to: Path) -> None:
    """Put one file of an archive in its place; folders come with what is in them."""
    name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
    if name and entry.is_dir() and not entry.file_size:
        return
    if not name or name != entry.orig_filename or not is_below(name) or lexists(to):
        raise InputError(f"{entry.orig_filename}: {ALIEN}")
    if kind not in (0, stat.S_IFREG):
        raise InputError(f"{name}: is no regular file")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{name}: packed by method {entry.compress_type}; allowed: stored or deflated")
    try:
        with packed.open(entry) as content:
            to.parent.mkdir(parents=True, exist_ok=True)
            with to.open("xb") as unpacked_file:
                shutil.copyfileobj(content, unpacked_file)
    except UNREADABLE as error:
        raise InputError(f"{name}: cannot be unpacked ({error})") from error


def _names(run: SealedRun) -> list[str]:
    """What an archive of a run holds, sorted."""
    names = {file["path"] for file in recorded_files(run) if not stays_outside(file["path"])} | set(run.records)
    beside = (f"{run.name}/{name}" for name in BESIDE)
    names |= {PROGRAM, f"{run.name}/{MANIFEST}", f"{run.name}/{LISTING}"}
    return sorted({*names, *filter(lambda n: _in(run, n), beside)})


def _in(run: SealedRun, name: str) -> bool:
    return (run.root / name).is_file()


def _contents(run: SealedRun) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of an archive, in order; what a record names has to be as recorded."""
    files = recorded_files(run)
    main = program(run, files)
    recorded = {file["path"]: file["sha256"] for file in files} | {PROGRAM: main["sha256"]}
    beside = {name: file_sha256(run.root / name) for name in _names(run) if Path(name).name in BESIDE}
    for name in _names(run):
        if name == f"{run.name}/{LISTING}":
            yield name, listing_text(run, beside, outside_files(files)).encode()
            continue
        content = (run.root / (main["path"] if name == PROGRAM else name)).read_bytes()
        wanted = recorded.get(name, beside.get(name))
        if wanted and sha256(content).hexdigest() != wanted:
            raise InputError(f"{name}: was changed while it was archived")
        yield name, content
