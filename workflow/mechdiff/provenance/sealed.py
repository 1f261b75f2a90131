"""A finished run as its manifest seals it: where every command that reads a run begins.

1. The manifest is, byte for byte, what was sealed, and has the digest it was sealed with.
2. Every record has the hash that the manifest gives, and the form of a record; no two say that they made one file.
3. Records are put in order: a job comes after the jobs that made its inputs.

The first file that is wrong is named, in one line. What records name is hashed by those who ask for it (``verify``).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from os.path import abspath, normpath, realpath
from pathlib import Path, PurePosixPath
from typing import Any

from mechdiff.common.errors import InputError
from mechdiff.common.files import file_sha256, open_file
from mechdiff.provenance.records import manifest_matches, manifest_text, parse_record

MANIFEST = "manifest.json"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")  # weights and activations: large, and known well enough by sha256
FORM: dict[str, Any] = {"rule": str, "wildcards": dict, "params": dict, "inputs": list, "outputs": list}  # of a record
FORM |= {"code": dict, "environment": dict, "git": dict | None}
Record = dict[str, Any]


@dataclass(frozen=True)
class SealedRun:
    """A run: the folder that recorded paths start from, results/<run> in it, its digest, and its records in order."""

    root: Path
    name: str
    digest: str
    records: dict[str, Record]

    @property
    def folder(self) -> Path:
        """Where the run's files are."""
        return self.root / self.name

    @cached_property
    def maker(self) -> dict[str, str]:
        """File -> the record that says which job made it; a record is of its own job."""
        made = {file["path"]: name for name, record in self.records.items() for file in record["outputs"]}
        return made | {name: name for name in self.records}

    def own(self, path: str) -> bool:
        """Whether a recorded path leads to one of the run's own files, whichever way it is named."""
        if Path(normpath(path)).is_relative_to(self.name):
            return True
        try:
            return Path(realpath(self.root / path)).is_relative_to(realpath(self.folder))
        except ValueError:  # no name for a file
            return False

    def has(self, path: str) -> bool:
        """Whether something is there by a recorded path below the root; beyond it is another machine's."""
        return is_below(path) and os.path.lexists(self.root / path)

    def relative(self, path: str) -> str:
        """A recorded path without the run's name, by which two runs can be compared."""
        named = Path(normpath(path))
        return named.relative_to(self.name).as_posix() if named.is_relative_to(self.name) else path

    def verify(self, file: Mapping[str, Any]) -> None:
        """Refuse a file that is not as its record says."""
        _verify(self.root, file["path"], file["sha256"])
        size = (self.root / file["path"]).stat().st_size
        if file.get("bytes", size) != size:
            raise InputError(f"{file['path']}: has {size} bytes, its record says {file['bytes']}")


def stays_outside(path: str) -> bool:
    """Whether an archive leaves a recorded file out: weights, activations, what is not below the run's root."""
    return Path(path).suffix in WEIGHTS or Path(path).is_absolute() or ".." in Path(path).parts


def open_run(folder: str | Path) -> SealedRun:
    """A finished run by its folder, results/<run>. Raises InputError that names what is missing or was changed."""
    path = Path(folder) / MANIFEST
    if not os.path.lexists(path):
        raise InputError(f"{path}: missing, so there is no finished run in {folder}")
    with open_file(path) as file:
        content = file.read()
    manifest = parse_record(content, path)
    if not isinstance(manifest, dict) or not manifest_matches(manifest):
        raise InputError(f"{path}: does not have the digest it was sealed with")
    if content != manifest_text(manifest).encode():
        raise InputError(f"{path}: is not written as it was sealed")
    if not _is_manifest(manifest):
        raise InputError(f"{path}: is no manifest of a run")
    root = _root(path, manifest["run"])
    records = {name: _record(root, name, sha256) for name, sha256 in manifest["records"].items()}
    return SealedRun(root, manifest["run"], manifest["digest"], in_order(records))


def files_below(folder: Path, named: Container[Path]) -> Iterator[Path]:
    """Everything below a folder that is no folder, sorted, less what is hidden.

    A folder that is a link is entered where it is one of those named, and else told itself: it may lead anywhere.
    """
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        if path == folder or (path.is_dir() and (path in named or not path.is_symlink())):
            waiting += sorted((each for each in path.iterdir() if not each.name.startswith(".")), reverse=True)
        else:
            yield path


def read_below(root: Path, name: str) -> bytes:
    """A file by its recorded path, by which an error names it too."""
    with _named_as(name, root), open_file(root / name) as file:
        return file.read()


def _verify(root: Path, name: str, sha256: str) -> None:
    with _named_as(name, root):
        found = file_sha256(root / name)
    _require_same(found, sha256, name)


def _record(root: Path, name: str, sha256: str) -> Any:
    content = read_below(root, name)
    _require_same(hashlib.sha256(content).hexdigest(), sha256, name)
    return parse_record(content, name)


def _require_same(found: str, recorded: str, name: str) -> None:
    if found != recorded:
        raise InputError(f"{name}: does not match its recorded sha256 {recorded[:12]}…")


@contextmanager
def _named_as(name: str, root: Path) -> Iterator[None]:
    """Call a file by its recorded path in errors, wherever it is."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace(str(root / name), name, 1)) from error


def _root(path: Path, run: str) -> Path:
    """The folder that recorded paths are relative to: from there the manifest is results/<run>/manifest.json."""
    here = Path(abspath(path))  # noqa: PTH100 - resolve() would follow a results/ that links to another disk
    root = here.parents[min(len(Path(run).parts), len(here.parents) - 1)]
    if root / run / MANIFEST != here:
        raise InputError(f"{path}: is the manifest of {run}; put the run back there to audit it")
    return root


def in_order(records: Mapping[str, Record]) -> dict[str, Record]:
    """Records sorted so that a job comes after the jobs that made its inputs."""
    maker: dict[str, str] = {}
    for name, record in records.items():
        if not _is_record(record):
            raise InputError(f"{name}: is no record of a job")
        for file in record["outputs"]:
            if file["path"] in records:
                raise InputError(f"{file['path']}: is a record, and {name} says that its own job made it")
            if maker.setdefault(file["path"], name) != name:
                raise InputError(f"{file['path']}: both {maker[file['path']]} and {name} say that they made it")
    ordered: dict[str, Record] = {}
    opened: dict[str, Iterator[str]] = {}  # from a job to the one that it waits for: the makers still to be looked at
    for first in sorted(records):
        opened[first] = _makers(records[first], maker)
        while opened:
            name, makers = next(reversed(opened.items()))
            made_by = next((each for each in makers if each not in ordered), None)
            if made_by is None:
                ordered[name] = records[name]
                del opened[name]
            elif made_by in opened:
                raise InputError(f"{made_by}: its job would need what it makes itself")
            else:
                opened[made_by] = _makers(records[made_by], maker)
    return ordered


def _makers(record: Record, maker: Mapping[str, str]) -> Iterator[str]:
    return iter(dict.fromkeys(maker[file["path"]] for file in record["inputs"] if file["path"] in maker))


def _is_manifest(value: Mapping[str, Any]) -> bool:
    run, records = value.get("run"), value.get("records")
    if not isinstance(run, str) or not is_below(run) or not isinstance(records, dict):
        return False
    return all(is_below(name) and isinstance(sha256, str) for name, sha256 in records.items())


def is_below(path: str) -> bool:
    """Whether a path says in one way alone, and without leaving its root, where a file is."""
    parts = PurePosixPath(path)
    return path == parts.as_posix() != "." and not parts.is_absolute() and ".." not in parts.parts


def _is_record(value: Any) -> bool:
    if not isinstance(value, dict) or "git" not in value or not _has(value, **FORM):
        return False
    git = value["git"]
    return (
        _has(value["code"], version=str, modules=dict)
        and _has(value["environment"], packages=dict)
        and (git is None or _has(git, commit=str, dirty=bool))
        and all(map(_is_file, (*value["inputs"], *value["outputs"])))
        and all(is_below(file["path"]) for file in value["outputs"])
    )


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and _has(value, path=str, sha256=str, bytes=int) and value["bytes"] is not True


def _has(value: Mapping[str, Any], **forms: type) -> bool:
    return all(isinstance(value.get(key), form) for key, form in forms.items())
