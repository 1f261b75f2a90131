"""Where each number came from: a record beside every artefact, and a manifest that seals a run.

A record says, for one job: rule, wildcards and parameters; inputs and outputs with sha256; the code version, a hash of
the modules the script imports; package versions, Python, machine and threads; git commit; when and how long. A manifest
lists the sha256 of every record behind a run's tables, and its digest stands for the whole run: who keeps the digest
elsewhere can tell that nothing was changed, records included.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mechdiff import __version__
from mechdiff.errors import InputError
from mechdiff.staging import staged

NAMED = "named"  # a rule's parameter that tells Snakemake the names of the others
PACKAGE = Path(__file__).resolve().parent
PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "huggingface_hub"),
    *("numpy", "pandas", "pyarrow", "snakemake", "jsonschema"),
    *("matplotlib", "tabulate", "markdown-it-py", "rocrate"),
)


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """sha256 of a JSON value in canonical form, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def imported_modules(script: str | Path) -> list[Path]:
    """The script and every module of this package that it imports, directly or not, as files."""
    waiting, found = [Path(script).resolve()], set()
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imports(file, file.stat().st_mtime_ns)
    return sorted(found)


@cache  # every rule asks for much the same files
def _imports(file: Path, changed: int) -> list[Path]:
    """The modules of this package that a file imports itself; changed: when it was [ns]."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            found += _module_files(name)
    return found


def _module_files(name: str) -> list[Path]:
    """Files that importing a dotted name of this package runs."""
    parts = name.split(".")
    if parts[0] != PACKAGE.name:
        return []
    packages = [PACKAGE.joinpath(*parts[1:i], "__init__.py") for i in range(1, len(parts) + 1)]
    return [file for file in (*packages, PACKAGE.joinpath(*parts[1:]).with_suffix(".py")) if file.is_file()]


def code_version(script: str | Path) -> str:
    """One hash over the script and the modules of this package that it imports."""
    return _version_of(_modules(script))


def _modules(script: str | Path) -> dict[str, str]:
    return {str(file.relative_to(PACKAGE.parent)): file_sha256(file) for file in imported_modules(script)}


def _version_of(modules: Mapping[str, str]) -> str:
    return digest(modules)[:16]


def write_text(path: str | Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = Path(f"{path}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@contextmanager
def job(snakemake: Any) -> Iterator[dict[str, Any]]:
    """Run a script's body as a recorded job.

    Yields a dictionary for what the body wants to have noted. While it runs ``snakemake.output`` names files that are
    moved into place when it ends well, with the rule's ``record``, if it has one. An InputError or a file that cannot
    be written ends the script with its one line, on stderr and in the rule's log, and no traceback.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # CUDA refuses to be deterministic without
    if torch := sys.modules.get("torch"):  # scripts that compute have imported it; the others need not wait for it
        torch.set_num_threads(snakemake.threads)
        torch.use_deterministic_algorithms(True)
    started, clock = datetime.now(UTC), time.monotonic()
    notes: dict[str, Any] = {}
    try:
        code, git = _code(snakemake), git_state()  # of what runs, whatever is edited meanwhile
        inputs, outputs = hashed_files(snakemake.input), snakemake.output
        record_file = outputs.get("record")
        with staged(list(outputs), last=record_file) as places:
            snakemake.output = type(outputs)(toclone=outputs, custom_map=lambda output: str(places[output]))
            yield notes
            if record_file:
                made = {place: output for output, place in places.items() if output != record_file}
                record = _record(snakemake, inputs, made, notes, started, clock) | {"code": code, "git": git}
                write_text(places[record_file], json.dumps(record, indent=2, sort_keys=True) + "\n")
        _log(snakemake, f"{snakemake.rule}: done in {time.monotonic() - clock:.1f} s. {json.dumps(notes)}")
    except (InputError, OSError) as error:
        print(f"mechdiff: {error}", file=sys.stderr)
        with suppress(OSError):  # the disk may be what is full
            _log(snakemake, f"{snakemake.rule}: {error}")
        sys.exit(1)


def _record(
    snakemake: Any,
    inputs: list[dict[str, Any]],
    made: Mapping[Path, str],
    notes: Mapping[str, Any],
    started: datetime,
    clock: float,
) -> dict[str, Any]:
    """made: where each output is now -> where it will be."""
    return {
        "mechdiff": __version__,
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "params": {name: value for name, value in snakemake.params.items() if name != NAMED},
        "inputs": inputs,
        "outputs": hashed_files(made),
        "notes": notes,
        "environment": environment(snakemake.threads),
        "started": started.isoformat(timespec="seconds"),
        "wall_seconds": round(time.monotonic() - clock, 3),
    }


def _log(snakemake: Any, line: str) -> None:
    Path(snakemake.log[0]).write_text(line + "\n", encoding="utf-8")


def hashed_files(paths: Iterable[str] | Mapping[Path, str]) -> list[dict[str, Any]]:
    """Path, sha256 and size of each file; a folder stands for what is in it, less what Snakemake hides there.

    A mapping says under which path a file is to be known.
    """
    named = paths if isinstance(paths, Mapping) else {Path(path): path for path in paths}
    found: dict[str, dict[str, Any]] = {}
    for place, path in named.items():
        for file in _inside(place) if place.is_dir() else [place]:
            name = str(Path(path) / file.relative_to(place)) if place.is_dir() else str(path)
            if name not in found:
                found[name] = {"path": name, "sha256": file_sha256(file), "bytes": file.stat().st_size}
    return list(found.values())


def _inside(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


def _code(snakemake: Any) -> dict[str, Any]:
    modules = _modules(Path(snakemake.scriptdir) / f"{snakemake.rule}.py")
    version = _version_of(modules)
    if snakemake.params.get("code", version) != version:
        raise InputError(f"the code of rule {snakemake.rule} was changed after this run began; start the run again")
    return {"version": version, "modules": modules}


def environment(threads: int) -> dict[str, Any]:
    """Python, packages, machine, device and threads of this process."""
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": _device(),
        "threads": threads,
    }


def _device() -> str:
    """What this process computed on."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return "cpu"
    used = [i for i in range(torch.cuda.device_count()) if torch.cuda.max_memory_allocated(i)]
    return ", ".join(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in used) or "cpu"


def git_state() -> dict[str, Any] | None:
    """Commit of the checkout and whether files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": git("status", "--porcelain") != ""}
    except (OSError, subprocess.CalledProcessError):
        return None


def read_record(path: str | Path) -> dict[str, Any]:
    """A record or manifest; InputError when it is missing or not readable."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a record ({error})") from error


def build_manifest(run: str, records: Iterable[str]) -> dict[str, Any]:
    """The manifest over a run's records: path -> sha256, and a digest of the whole."""
    sealed = {"run": run, "records": {str(path): file_sha256(path) for path in sorted(records)}}
    return sealed | {"digest": digest(sealed)}


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as it is written, byte for byte."""
    return json.dumps(manifest, indent=2, sort_keys=True) + "\n"


def manifest_matches(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest still has the digest it was sealed with."""
    return manifest.get("digest") == digest({key: value for key, value in manifest.items() if key != "digest"})
