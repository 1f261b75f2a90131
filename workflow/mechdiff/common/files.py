"""Files: read as bytes, hashed, and written whole or not at all; an error names the file."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from mechdiff.common.errors import InputError


@contextmanager
def open_file(path: str | Path) -> Iterator[BufferedReader]:
    """A file to read bytes from. InputError when it is missing or none: a pipe would be waited for without end."""
    try:
        file = open(path, "rb", opener=_unblocked)  # noqa: SIM115 - pathlib takes no opener; closed below
    except (OSError, ValueError) as error:  # ValueError: no name for a file
        raise InputError(f"{path}: {_reason(error)}") from error
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise InputError(f"{path}: is no regular file")
        try:
            yield file
        except OSError as error:  # of the disk, say
            raise InputError(f"{path}: {_reason(error)}") from error


def _unblocked(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "missing"
    if isinstance(error, IsADirectoryError):
        return "is a folder, not a file"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def file_sha256(path: str | Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def naming(*paths: str | Path) -> Iterator[None]:
    """InputError that names the files where they cannot be written: a write to a full disk does not say to which."""
    try:
        yield
    except (OSError, _tensors_error()) as error:
        named = getattr(error, "filename", None) is not None
        raise InputError(str(error) if named else f"{', '.join(map(str, paths))}: {error}") from error


def _tensors_error() -> type[Exception]:
    """What safetensors raises where it cannot write, if it was imported."""
    return getattr(sys.modules.get("safetensors"), "SafetensorError", OSError)


def digest(value: Any) -> str:
    """sha256 of a JSON value in canonical form, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = Path(f"{path}.part")
    with naming(path):
        temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
