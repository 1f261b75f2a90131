"""Where each number came from: a record beside every artefact, and a manifest that seals a run.

A record says, for one job: rule, wildcards and parameters; inputs and outputs with sha256; the code version, a hash of
the modules the script imports; package versions, Python, machine and threads; git commit; when and how long. A manifest
lists the sha256 of every record behind a run's tables, and its digest stands for the whole run: who keeps the digest
elsewhere can tell that nothing was changed, records included.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mechdiff import __version__
from mechdiff.common.errors import InputError
from mechdiff.common.files import digest, file_sha256, naming, open_file, write_text
from mechdiff.common.text import plain
from mechdiff.provenance.code import PACKAGE, modules, version_of
from mechdiff.running.staging import staged

DEEPEST = 100  # parts within parts that a record can have
NAMED = "named"  # a rule's parameter that tells Snakemake the names of the others
PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "huggingface_hub"),
    *("numpy", "pandas", "pyarrow", "snakemake", "jsonschema"),
    *("matplotlib", "tabulate", "markdown-it-py", "rocrate"),
)


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
    gc.freeze()  # what was imported stays, and is not looked through for garbage again, least of all at the end
    started, clock = datetime.now(UTC), time.monotonic()
    notes: dict[str, Any] = {}
    try:
        code, git = _code(snakemake), git_state()  # of what runs, whatever is edited meanwhile
        inputs, outputs = hashed_files(snakemake.input), snakemake.output
        record_file = outputs.get("record")
        with staged(list(outputs), last=record_file) as places:
            snakemake.output = type(outputs)(toclone=outputs, custom_map=lambda output: str(places[output]))
            with _writing(places):
                yield notes
                if record_file:
                    made = {place: output for output, place in places.items() if output != record_file}
                    record = _record(snakemake, inputs, made, notes, started, clock) | {"code": code, "git": git}
                    write_text(places[record_file], json.dumps(record, indent=2, sort_keys=True) + "\n")
        _log(snakemake, f"{snakemake.rule}: done in {time.monotonic() - clock:.1f} s. {json.dumps(notes)}")
    except (InputError, OSError) as error:
        print(f"mechdiff: {plain(error)}", file=sys.stderr)
        with suppress(InputError):  # the disk may be what is full
            _log(snakemake, f"{snakemake.rule}: {plain(error)}")
        sys.exit(1)


@contextmanager
def _writing(places: Mapping[str, Path]) -> Iterator[None]:
    """Call outputs by their own names in errors, wherever they are meanwhile."""
    try:
        with naming(*places):
            yield
    except InputError as error:
        line = str(error)
        for output, place in places.items():
            line = line.replace(str(place), output)
        raise InputError(line) from error


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
    with naming(snakemake.log[0]):
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
    imported = modules(Path(snakemake.scriptdir) / f"{snakemake.rule}.py")
    version = version_of(imported)
    if snakemake.params.get("code", version) != version:
        raise InputError(f"the code of rule {snakemake.rule} was changed after this run began; start the run again")
    return {"version": version, "modules": imported}


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


def read_record(path: str | Path) -> Any:
    """A record or manifest; InputError when it is missing or not readable."""
    with open_file(path) as file:
        return parse_record(file.read(), path)


def parse_record(content: bytes, name: str | Path) -> Any:
    """The JSON value of a record's bytes; InputError under its name when it is none, or not one value alone."""
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
        waiting = [(value, 1)]
        while waiting:
            part, depth = waiting.pop()
            if depth > DEEPEST:
                raise ValueError(f"nested deeper than {DEEPEST}")
            if isinstance(part, dict | list):
                waiting += ((each, depth + 1) for each in (part.values() if isinstance(part, dict) else part))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: cannot be read as a record ({error})") from error
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a key is there twice")
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number")


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
