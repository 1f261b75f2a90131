"""Audit of a run: re-hash everything behind its tables and name the first file that does not match.

Steps, from the beginning of the chain to its end, so that the first file named is where it broke:

1. The manifest has the digest it was sealed with; every record has the hash the manifest gives.
2. Records are put in order: a job comes after the jobs that made its inputs.
3. Each file a record names is hashed: inputs that no job made (weights, object lists), then outputs.
4. What a job read is what the job before it wrote.
5. Among the tables, figures and the verdict there is no file that no record names.
"""

from __future__ import annotations

from dataclasses import dataclass
from os.path import abspath
from pathlib import Path
from typing import Any

from mechdiff.errors import InputError
from mechdiff.provenance import file_sha256, manifest_matches, read_record

MANIFEST = "manifest.json"
TABLES = "tables"
SHOWN = (TABLES, "figures", "verdict")  # folders that a reader looks into


@dataclass(frozen=True)
class Audit:
    """What was verified: files by hash, and jobs."""

    files: int
    jobs: int
    digest: str


def audit(folder: str | Path) -> dict[str, Audit]:
    """Verify every run under a folder, run by run. Raises InputError that names the first file that does not match."""
    manifests = sorted(Path(folder).rglob(MANIFEST))
    if not manifests:
        raise InputError(f"{folder}: no {MANIFEST} in it, so no finished run to audit")
    for tables in sorted(Path(folder).rglob(TABLES)):
        if not (tables.parent / MANIFEST).exists():
            raise InputError(f"{tables}: no {MANIFEST} beside it, so its run is not finished")
    return {str(path.parent): _audit_run(path) for path in manifests}


def _audit_run(path: Path) -> Audit:
    manifest = read_record(path)
    if not isinstance(manifest, dict) or not manifest_matches(manifest):
        raise InputError(f"{path}: does not have the digest it was sealed with")
    root = _root(path, manifest)
    for record_path, sha256 in manifest["records"].items():
        _verify(root / record_path, sha256, record_path)
    records = _in_order({name: read_record(root / name) for name in manifest["records"]})
    made: dict[str, str] = {}
    hashed: set[tuple[str, str]] = set()
    for name, record in records:
        for file in record["inputs"]:
            if made.get(file["path"], file["sha256"]) != file["sha256"]:
                raise InputError(f"{file['path']}: {name} read another version than its job wrote")
        for file in (*record["inputs"], *record["outputs"]):
            if (file["path"], file["sha256"]) not in hashed:
                _verify(root / file["path"], file["sha256"], file["path"])
                hashed.add((file["path"], file["sha256"]))
        made |= {file["path"]: file["sha256"] for file in record["outputs"]}
    known = {root / file for file, _ in hashed} | {root / name for name in manifest["records"]}
    shown = (root / manifest["run"] / folder for folder in SHOWN)
    for file in sorted(file for folder in shown if folder.is_dir() for file in folder.iterdir()):
        if file not in known:
            raise InputError(f"{file.relative_to(root)}: no record of this run names it")
    return Audit(len(hashed), len(records), manifest["digest"])


def _verify(path: Path, sha256: str, name: str) -> None:
    if not path.is_file():
        raise InputError(f"{name}: missing")
    if file_sha256(path) != sha256:
        raise InputError(f"{name}: does not match its recorded sha256 {sha256[:12]}…")


def _root(path: Path, manifest: dict[str, Any]) -> Path:
    """The folder that recorded paths are relative to: from there the manifest is results/<run>/manifest.json."""
    run = Path(manifest["run"])
    here = Path(abspath(path))  # noqa: PTH100 - resolve() would follow a results/ that links to another disk
    root = here.parents[len(run.parts)]
    if (root / run / MANIFEST) != here:
        raise InputError(f"{path}: is the manifest of {run}; put the run back there to audit it")
    return root


def _in_order(records: dict[str, dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Records sorted so that a job comes after the jobs that made its inputs."""
    maker = {file["path"]: name for name, record in records.items() for file in record["outputs"]}
    ordered: dict[str, dict[str, Any]] = {}

    def visit(name: str) -> None:
        if name in ordered:
            return
        for file in records[name]["inputs"]:
            if file["path"] in maker and maker[file["path"]] != name:
                visit(maker[file["path"]])
        ordered[name] = records[name]

    for name in sorted(records):
        visit(name)
    return list(ordered.items())
