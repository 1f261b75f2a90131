"""Code versions: one hash over a script and the modules of this package that it imports, directly or not.

Hashed is what a module does, its syntax tree: a comment, a docstring or the layout of the text are no code.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mechdiff.common.files import digest

PACKAGE = Path(__file__).resolve().parents[1]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)  # what can have a docstring


def imported_modules(script: str | Path) -> list[Path]:
    """The script and every module of this package that it imports, directly or not, as files."""
    waiting, found = [Path(script).resolve()], set()
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += imports(file, file.stat().st_mtime_ns)
    return sorted(found)


@cache  # every rule asks for much the same files
def imports(file: Path, changed: int) -> list[Path]:
    """The modules of this package that a file imports itself; changed: when it was [ns]."""
    found = []
    for node in ast.walk(syntax_tree(file, changed)):
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
    return version_of(modules(script))


def modules(script: str | Path) -> dict[str, str]:
    """The files behind a code version, by their paths from the folder of the package -> the sha256 of what they do."""
    return {
        str(file.relative_to(PACKAGE.parent)): what_it_does(file, file.stat().st_mtime_ns)
        for file in imported_modules(script)
    }


def version_of(modules: Mapping[str, str]) -> str:
    """The code version that some modules make, by the result of ``modules``: 16 hex digits."""
    return digest(modules)[:16]


@cache
def what_it_does(file: Path, changed: int) -> str:
    """sha256 of a file's syntax tree without docstrings, as hex; changed: when the file was [ns]."""
    return digest(_plain(syntax_tree(file, changed)))


@cache
def syntax_tree(file: Path, changed: int) -> ast.Module:
    """A file as Python reads it; changed: when the file was [ns]."""
    return ast.parse(file.read_text(encoding="utf-8"))


def _plain(node: Any) -> Any:
    """A syntax tree as JSON, without docstrings and empty fields: later versions of Python have more of those."""
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, str | int) else [type(node).__name__, repr(node)]
    fields = {name: value for name, value in ast.iter_fields(node) if value not in (None, []) and name != "kind"}
    if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, {name: _plain(value) for name, value in fields.items()}]
