"""A finished run as its manifest seals it: where every command that reads a run begins.

1. The manifest is, byte for byte, what was sealed, and has the digest it was sealed with.
2. Every record has the hash that the manifest gives, and the form of a record; no two say that they made one file.
3. Records are put in order: a job comes after the jobs that made its inputs.

The first file that is wrong is named, in one line. What records name is hashed by those who ask for it (``verify``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os.path import abspath
from pathlib import Path
from typing import Any

from mechdiff.errors import InputError
from mechdiff.provenance import file_sha256, manifest_matches, manifest_text, read_record

MANIFEST = "manifest.json"
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")  # weights and activations: large, and known well enough by sha256
TOLD = {"rule", "wildcards", "params", "inputs", "outputs", "code", "environment", "git"}  # by every record
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
        """Whether a recorded path is one of the run's own files."""
        return Path(path).is_relative_to(self.name)

    def relative(self, path: str) -> str:
        """A recorded path without the run's name, by which two runs can be compared."""
        return Path(path).relative_to(self.name).as_posix() if self.own(path) else path

    def verify(self, file: Mapping[str, Any]) -> None:
        """Refuse a file that is not as its record says."""
        _verify(self.root / file["path"], file["sha256"], file["path"])


def stays_outside(path: str) -> bool:
    """Whether an archive leaves a recorded file out: weights, activations, what is not below the run's root."""
    return Path(path).suffix in WEIGHTS or Path(path).is_absolute() or ".." in Path(path).parts


def open_run(folder: str | Path) -> SealedRun:
    """A finished run by its folder, results/<run>. Raises InputError that names what is missing or was changed."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"{path}: missing, so there is no finished run in {folder}")
    manifest = read_record(path)
    if not isinstance(manifest, dict) or not manifest_matches(manifest):
        raise InputError(f"{path}: does not have the digest it was sealed with")
    if path.read_text(encoding="utf-8") != manifest_text(manifest):
        raise InputError(f"{path}: is not written as it was sealed")
    if not isinstance(manifest.get("run"), str) or not isinstance(manifest.get("records"), dict):
        raise InputError(f"{path}: is no manifest of a run")
    root = _root(path, manifest["run"])
    for name, sha256 in manifest["records"].items():
        _verify(root / name, sha256, name)
    records = {name: read_below(root, name) for name in manifest["records"]}
    return SealedRun(root, manifest["run"], manifest["digest"], in_order(records))


def files_below(folder: Path, inside: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Every file below a folder, sorted; folders that are links are entered too, but not from inside themselves."""
    real = folder.resolve()
    if real not in inside:
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                yield from files_below(path, (*inside, real))
            elif path.is_file():
                yield path


def read_below(root: Path, name: str) -> Any:
    """A JSON file by its recorded path, by which an error names it too."""
    try:
        return read_record(root / name)
    except InputError as error:
        raise InputError(str(error).replace(str(root / name), name)) from error


def _verify(path: Path, sha256: str, name: str) -> None:
    if not path.is_file():
        raise InputError(f"{name}: missing")
    if file_sha256(path) != sha256:
        raise InputError(f"{name}: does not match its recorded sha256 {sha256[:12]}…")


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
            if maker.setdefault(file["path"], name) != name:
                raise InputError(f"{file['path']}: both {maker[file['path']]} and {name} say that they made it")
    ordered: dict[str, Record] = {}

    def visit(name: str, waiting: tuple[str, ...] = ()) -> None:
        if name in waiting:
            raise InputError(f"{name}: its job would need what it makes itself")
        for made_by in dict.fromkeys(maker[f["path"]] for f in records[name]["inputs"] if f["path"] in maker):
            if made_by not in ordered:
                visit(made_by, (*waiting, name))
        ordered[name] = records[name]

    for name in sorted(records):
        if name not in ordered:
            visit(name)
    return ordered


def _is_record(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() >= TOLD:
        return False
    return all(isinstance(value[key], list) and all(map(_is_file, value[key])) for key in ("inputs", "outputs"))


def _is_file(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("path"), str) and isinstance(value.get("sha256"), str)
