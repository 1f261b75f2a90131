"""Audit of a run: re-hash every artefact behind and among its results and name the first file that does not match.

1. The manifest and the records are what was sealed, and records are put in order, from the beginning of the chain to
   its end (:mod:`mechdiff.provenance.sealed`).
2. What a job read is what the job before it wrote, and what it read of the run some job wrote.
3. Each file that a record names is hashed, record by record, inputs before outputs: the first file named is where the
   chain broke.
4. The run's folder has no file that no record names. Logs are not artefacts; nor is what tells of a whole run.
5. In an archive (module ``archive``) weights and activations may be missing, and are then listed; what is packed beside
   the artefacts has the sha256 of the archive's list; its program is module ``self_audit``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os.path import lexists
from pathlib import Path
from typing import Any

from mechdiff.common.errors import InputError
from mechdiff.provenance.records import parse_record
from mechdiff.provenance.sealed import MANIFEST, SealedRun, files_below, open_run, read_below, stays_outside

TABLES, LOGS = "tables", "logs"
LISTING = "archive.json"  # what an archive has beside a run's artefacts, and what it leaves out
PROGRAM = "__main__.py"  # what python runs when it is given an archive: of the workflow's copy in the crate
PROGRAM_OF_CRATE = "crate/workflow/mechdiff/provenance/self_audit.py"
BESIDE = ("report.html", "ro-crate-preview.html")  # made of a finished run, by no job of it
File = dict[str, Any]


@dataclass(frozen=True)
class Audit:
    """What was verified: files by hash, and jobs; and what an archive leaves outside."""

    files: int
    jobs: int
    digest: str
    outside: tuple[File, ...] = ()


def audit(folder: str | Path) -> dict[str, Audit]:
    """Verify every run under a folder, run by run. Raises InputError that names the first file that does not match."""
    runs = list(_runs_below(Path(folder)))
    if not runs:
        raise InputError(f"{folder}: no {MANIFEST} in it, so no finished run to audit")
    return {str(run): audit_run(run) for run in runs}


def _runs_below(folder: Path) -> Iterator[Path]:
    """The folders of runs, finished or not, sorted; none inside another: a crate has a copy of the workflow."""
    entered, waiting = set(), [folder]
    while waiting:
        folder = waiting.pop()
        if not folder.is_dir() or folder.resolve() in entered:
            continue
        entered.add(folder.resolve())
        if lexists(folder / MANIFEST) or (folder / TABLES).is_dir():
            yield folder
        else:
            waiting += sorted(folder.iterdir(), reverse=True)


def audit_run(folder: str | Path) -> Audit:
    """Verify one run by its folder."""
    run = open_run(folder)
    files = recorded_files(run)
    archived = lexists(run.folder / LISTING)
    outside = []
    for file in files:
        if archived and stays_outside(file["path"]) and not run.has(file["path"]):
            outside.append(file)
        else:
            run.verify(file)
    if archived:
        _verify_listing(run, outside_files(files))
        run.verify({"path": PROGRAM, "sha256": program(run, files)["sha256"]})
    _require_no_others(run, files)
    return Audit(len(files) - len(outside), len(run.records), run.digest, tuple(outside_files(outside)))


def recorded_files(run: SealedRun) -> list[File]:
    """Every file that records name, once, in the order of the chain; what was read must be what was written."""
    made: dict[str, str] = {}
    files: dict[tuple[str, str], File] = {}
    for name, record in run.records.items():
        for file in record["inputs"]:
            if made.get(file["path"], file["sha256"]) != file["sha256"]:
                raise InputError(f"{file['path']}: {name} read another version than its job wrote")
            if file["path"] not in run.maker and run.own(file["path"]):
                raise InputError(f"{file['path']}: {name} read it, and no record says which job made it")
        made |= {file["path"]: file["sha256"] for file in record["outputs"]}
        for file in (*record["inputs"], *record["outputs"]):
            files.setdefault((file["path"], file["sha256"]), file)
    return list(files.values())


def outside_files(files: Iterable[File]) -> list[File]:
    """Of recorded files those that an archive leaves out, by path."""
    return sorted((file for file in files if stays_outside(file["path"])), key=lambda file: file["path"])


def listing_text(run: SealedRun, beside: dict[str, str], outside: list[File]) -> str:
    """The list of an archive: whose it is, the sha256 of what is packed beside the artefacts, what is not packed."""
    value = {"run": run.name, "digest": run.digest, "beside": beside, "outside": outside}
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def program(run: SealedRun, files: Iterable[File]) -> File:
    """The recorded file that is the program of a run's archive."""
    path = f"{run.name}/{PROGRAM_OF_CRATE}"
    for file in files:
        if file["path"] == path:
            return file
    raise InputError(f"{path}: no record of this run names it, so its archive cannot audit by itself")


def _verify_listing(run: SealedRun, outside: list[File]) -> None:
    name = f"{run.name}/{LISTING}"
    content = read_below(run.root, name)
    listing = parse_record(content, name)
    beside = listing.get("beside") if isinstance(listing, dict) else None
    if not isinstance(beside, dict) or not set(beside) <= {f"{run.name}/{file}" for file in BESIDE}:
        raise InputError(f"{name}: is no list of an archive")
    if content != listing_text(run, beside, outside).encode():
        raise InputError(f"{name}: is not the list of this run's archive")
    for path, sha256 in beside.items():
        run.verify({"path": path, "sha256": str(sha256)})


def _require_no_others(run: SealedRun, files: Iterable[File]) -> None:
    """Refuse what is in the run's folder and no record names; hidden files are Snakemake's."""
    known = {run.root / file["path"] for file in files} | {run.root / name for name in run.records}
    beside = {run.folder / name for name in (MANIFEST, LISTING, *BESIDE)}
    folders = {folder for file in known for folder in file.parents}
    found = (path for path in files_below(run.folder, folders) if run.folder / LOGS not in path.parents)
    others = [path for path in found if path not in known and not (path in beside and path.is_file())]
    if others:
        more = f", nor {len(others) - 1} others" if others[1:] else ""
        line = f"no record of this run names it{more}; delete what an earlier config left"
        raise InputError(f"{others[0].relative_to(run.root)}: {line}")
