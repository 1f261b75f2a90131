"""Text files that users bring: UTF-8, with or without a byte order mark, whatever ends their lines.

A config is YAML or JSON. Read loosely, a key that stands twice loses its first value, and an alias can make a value
that never ends; here both are errors. Every error is one line that names the file and, where it is known, the line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from mechdiff.errors import InputError

SHOWN = 100  # characters of a value that an error shows
MOST_VALUES = 100_000  # of a config, each alias counted as what it stands for


def shown(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def read_text(path: str | Path) -> str:
    """The text of a file, its lines ended by one line feed each; InputError when it is none."""
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise InputError(f"{path}: cannot be read (it is no file)")
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is no UTF-8; allowed: text saved as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from error


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML or JSON file; InputError for what YAML or JSON does not allow, or a parser does not mind."""
    text = read_text(path)
    try:
        try:
            return json.loads(text, object_pairs_hook=_once_each)
        except json.JSONDecodeError:
            loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        return loader.construct_document(node)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: its values are nested too deeply; allowed: a few levels") from error
    except Exception as error:  # beside its own errors, PyYAML lets through those of int(), of dates and others
        raise InputError(f"{path}: {_told(error)}; allowed: YAML or JSON") from error


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys of a config file."""
    config = read_yaml(path)
    if not isinstance(config, dict):
        raise InputError(f"{path}: has no keys; allowed: YAML or JSON with the keys of a config")
    return config


def check_config_files(files: Iterable[str | Path] | None = None) -> None:
    """End the program with one line where the text of a config file does not do.

    files: by default those that the command line of this process gives Snakemake.
    """
    if files is None:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--configfile", "--configfiles", nargs="*", default=[])
        files = parser.parse_known_args()[0].configfile
    try:
        for file in files:
            read_config(file)
    except InputError as error:
        sys.exit(f"mechdiff: config: {error}")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise InputError(f"the key {name!r} stands twice; allowed: once")
    return found


def _count_values(node: yaml.Node, counted: dict[yaml.Node, int | None]) -> int:
    """How many values a node stands for, itself among them; counted: of nodes met before, None while inside them."""
    if node not in counted:
        counted[node] = None
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            seen: set[tuple[str, str]] = set()
            for key, _ in parts:
                if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                    line = key.start_mark.line + 1
                    raise InputError(f"line {line}: the key {key.value!r} stands twice; allowed: once")
                seen.add((key.tag, str(key.value)))
            parts = [part for pair in parts for part in pair]
        counted[node] = 1 + sum(_count_values(part, counted) for part in parts)
        if counted[node] > MOST_VALUES:
            raise InputError(f"stands for more than {MOST_VALUES} values; allowed: fewer, or fewer aliases")
    if counted[node] is None:
        raise InputError(f"line {node.start_mark.line + 1}: an alias is inside of what it stands for; allowed: outside")
    return counted[node]


def _told(error: Exception) -> str:
    """One line of what a parser says."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split()) or type(error).__name__
