"""Text files that users bring: UTF-8, with or without a byte order mark, whatever ends their lines.

A config is YAML or JSON. Read loosely, a key that stands twice loses its first value, and an alias can make a value
that never ends, and 010 is 8; here all are errors. Every error is one line that names the file and, where it is
known, the line.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from mechdiff.common.errors import InputError

SHOWN = 100  # characters of a value that an error shows
TOLD = 10  # words that a line names
# A config has at most so many bytes; values, each alias counted as what it stands for; and levels of them.
MOST_BYTES, MOST_VALUES, MOST_LEVELS = 1_000_000, 10_000, 50
TOO_MANY = f"stands for more than {MOST_VALUES} values; allowed: fewer, or fewer aliases"
TOO_DEEP = f"its values are nested too deeply; allowed: {MOST_LEVELS} levels"
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
TWO_WAYS = re.compile("[-+]?0_*[0-9]|.*:")  # a number as YAML 1.1 reads it, octal or in sixties, and no one else


class _Loader(yaml.SafeLoader):
    """A loader that stops where values are nested too deeply: looking ahead, PyYAML's takes the square of the depth."""

    def fetch_flow_collection_start(self, *token: Any) -> None:
        if self.flow_level > MOST_LEVELS:
            raise InputError(TOO_DEEP)
        super().fetch_flow_collection_start(*token)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) > 2 * MOST_LEVELS:
            raise InputError(TOO_DEEP)
        return super().add_indent(column)


def shown(value: Any) -> str:
    """A value as an error shows it."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits, or what holds one
        text = "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def few(words: Sequence[str]) -> str:
    """Some words as one line: the first of them, and how many more there are."""
    more = len(words) - TOLD
    return ", ".join(words[:TOLD]) + (f" and {more} more" if more > 0 else "") or "none"


def key_shown(name: Any) -> str:
    """A key as an error shows it: as it is, unless that would hide something or be long."""
    if not isinstance(name, str) or not name or not (name.isascii() and name.isprintable()):
        name = ascii(name) if isinstance(name, str) else shown(name)
    return name if len(name) <= SHOWN else f"{name[:SHOWN]}…"


def read_text(path: str | Path, most: int | None = None) -> str:
    """The text of a file, its lines ended by one line feed each; InputError when it is none. most: bytes."""
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise InputError(f"{path}: cannot be read (it is no file)")
        if most is not None and (size := Path(path).stat().st_size) > most:
            raise InputError(f"{path}: has {size} bytes; allowed: at most {most}")
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is no UTF-8; allowed: text saved as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason})") from error


def read_yaml(path: str | Path) -> Any:
    """The value of a YAML or JSON file; InputError for what YAML or JSON does not allow, or a parser does not mind."""
    text = read_text(path, MOST_BYTES)
    try:
        try:
            value = json.loads(text, object_pairs_hook=_once_each)
            check_size(value)
            return value
        except json.JSONDecodeError:
            loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_values(node, {})
        value = loader.construct_document(node)
        check_size(value)
        return value
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: {TOO_DEEP}") from error
    except Exception as error:  # beside its own errors, PyYAML lets through those of int(), of dates and others
        raise InputError(f"{path}: {_told(error)}; allowed: YAML or JSON") from error


def check_size(value: Any) -> None:
    """InputError for a value of so many parts, or so many levels, that whatever goes through it would be at it long."""
    waiting, counted = [(value, 0)], 0
    while waiting:
        part, level = waiting.pop()
        parts = part.values() if isinstance(part, dict) else part if isinstance(part, (list, tuple)) else ()
        counted += 1 + len(parts)
        if level > MOST_LEVELS:
            raise InputError(TOO_DEEP)
        if counted > 2 * MOST_VALUES:  # each is counted as a part and as a value
            raise InputError(TOO_MANY)
        waiting += [(inner, level + 1) for inner in parts]


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys of a config file."""
    config = read_yaml(path)
    if not isinstance(config, dict):
        what = "is a list" if isinstance(config, list) else "has no keys"
        raise InputError(f"{path}: {what}; allowed: YAML or JSON with the keys of a config")
    return config


def check_config_files(files: Iterable[str | Path] | None = None) -> None:
    """End the program with one line where the text of a config file does not do, or --config says something twice.

    files: by default those that the command line of this process gives Snakemake.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--configfile", "--configfiles", nargs="*", default=[])
    parser.add_argument("--config", "-C", nargs="*", action="append", default=[])
    given, _ = parser.parse_known_args()
    try:
        if len(given.config) > 1:  # Snakemake takes the last
            raise InputError("--config stands twice; allowed: once, with every key")
        for entries in given.config:
            _once_each([tuple(entry.split("=", 1)) for entry in entries if "=" in entry])
        for file in given.configfile if files is None else files:
            read_config(file)
    except InputError as error:
        sys.exit(f"mechdiff: config: {error}")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise InputError(f"the key {shown(name)} stands twice; allowed: once")
    return found


def _count_values(node: yaml.Node, counted: dict[yaml.Node, int | None]) -> int:
    """How many values a node stands for, itself among them; counted: of nodes met before, None while inside them."""
    line = f"line {node.start_mark.line + 1}"
    if node not in counted:
        counted[node] = None
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.ScalarNode) and node.tag in NUMBERS and TWO_WAYS.match(node.value):
            told = f"the number {shown(node.value)[1:-1]} is read in more than one way"
            raise InputError(f"{line}: {told}; allowed: one without a leading 0 or a colon, such as 8")
        if isinstance(node, yaml.MappingNode):
            seen: set[tuple[str, str]] = set()
            for key, _ in parts:
                at = f"line {key.start_mark.line + 1}"
                if not isinstance(key, yaml.ScalarNode):
                    raise InputError(f"{at}: a key is no text; allowed: text, in quotes if need be")
                if (key.tag, key.value) in seen:
                    raise InputError(f"{at}: the key {shown(key.value)} stands twice; allowed: once")
                seen.add((key.tag, key.value))
            parts = [part for pair in parts for part in pair]
        counted[node] = 1 + sum(_count_values(part, counted) for part in parts)
        if counted[node] > MOST_VALUES:
            raise InputError(TOO_MANY)
    if counted[node] is None:
        raise InputError(f"{line}: an alias is inside of what it stands for; allowed: outside")
    return counted[node]


def _told(error: Exception) -> str:
    """One line of what a parser says."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark):
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split()) or type(error).__name__
