"""The schema of a config (workflow/schemas/config.schema.yaml): what it refuses, in one line, and its defaults."""

from __future__ import annotations

import copy
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import jsonschema

from mechdiff.common.errors import InputError
from mechdiff.common.reading import check_size, key_shown, read_yaml, shown
from mechdiff.common.text import UNWRITABLE

SCHEMA = Path(__file__).resolve().parents[2] / "schemas" / "config.schema.yaml"
# The schema's formats of text: what pages and tables show; and what Snakemake takes for files, where braces are
# wildcards and what may be markup goes into a script of its report.
FREE_TEXT, PATH = "text", "path"
UNFIT = re.compile(rf"{UNWRITABLE.pattern}|[{{}}<>]")  # in a path
FORMS = {
    FREE_TEXT: "text that can be seen, and that no reader of tables takes for a number or for nothing",
    PATH: "a path, without any of {}<>, control characters, and blanks at its ends",
}
# What readers of CSV take for no text, beside numbers; and letters and a sign that are not to be seen.
AS_VALUES = {"na", "nan", "n/a", "null", "none", "true", "false", "<na>", "#na", "#n/a", "#n/a n/a"}
AS_VALUES |= {f"{sign}1.#{what}" for sign in ("", "-") for what in ("ind", "qnan")}
BLANK = "\u115f\u1160\u2800\u3164\uffa0"


def filled_in(config: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The config with every default in place. folder: what its relative paths start from.

    Raises InputError for the first value that the schema does not allow.
    """
    schema = _schema()
    check_size(config)
    filled = copy.deepcopy(dict(config))
    _check_values(filled)
    problems = sorted(Validator(schema, format_checker=FORMATS).iter_errors(filled), key=_place)
    if problems:
        raise InputError(_explain(problems[0]))
    return _with_defaults(filled, schema, folder)


@cache
def _schema() -> dict[str, Any]:
    return read_yaml(SCHEMA)


def _explain(error: jsonschema.ValidationError) -> str:
    """One line: key, value, what is allowed."""
    key = ".".join(key_shown(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        unknown = next(name for name in error.instance if name not in allowed)
        return f"{f'{key}.' if key else ''}{key_shown(unknown)}: unknown key; allowed: {', '.join(allowed)}"
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"{f'{key}.' if key else ''}{missing}: missing key, it has no default"
    allowed = {
        "type": lambda v: f"a value of type {v if isinstance(v, str) else ' or '.join(v)}",
        "enum": lambda v: "one of " + ", ".join("null" if x is None else str(x) for x in v),
        "minimum": lambda v: f"at least {v}",
        "maximum": lambda v: f"at most {v}",
        "exclusiveMinimum": lambda v: f"more than {v}",
        "pattern": lambda v: f"text of the form {v}",
        "minLength": lambda v: f"at least {v} character",
        "maxLength": lambda v: f"at most {v} characters",
        "format": lambda v: FORMS[v],
        "minItems": lambda v: f"at least {v} entry",
        "minProperties": lambda v: f"at least {v} entry",
    }.get(error.validator, lambda v: error.message)(error.validator_value)
    return f"{key or 'config'}: {shown(error.instance)} is not allowed; allowed: {allowed}"


def _place(error: jsonschema.ValidationError) -> list[str]:
    return list(map(str, error.path))


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    """JSON schema's pattern, in which $ is the end alone; in Python's it is also the place before a last line end."""
    if isinstance(instance, str) and not re.search(pattern.replace("$", r"\Z"), instance):
        yield jsonschema.ValidationError(pattern)


Validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, {"pattern": _pattern})
FORMATS = jsonschema.FormatChecker(formats=())


@FORMATS.checks(PATH)
def _is_path(value: Any) -> bool:
    return not isinstance(value, str) or (value != "" and value == value.strip() and not UNFIT.search(value))


@FORMATS.checks(FREE_TEXT)
def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return True
    seen = any(unicodedata.category(each)[0] in "LNPS" and each not in BLANK for each in value)
    return seen and " ".join(value.split()).casefold() not in AS_VALUES and not _is_number(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # which Python alone reads within a number


def _with_defaults(value: Any, schema: Mapping[str, Any], folder: str) -> Any:
    """The value with its defaults, keys in the schema's order, whole numbers as int, paths as Path writes them and free
    text with single spaces: one form for one meaning."""
    if isinstance(value, dict):
        parts, extra = schema.get("properties", {}), schema.get("additionalProperties")
        filled = {}
        for key, part in parts.items():
            if key in value or "default" in part:
                filled[key] = _with_defaults(value.get(key, copy.deepcopy(part.get("default"))), part, folder)
        others = {key: item for key, item in value.items() if key not in parts}
        return filled | {key: _with_defaults(item, extra, folder) for key, item in others.items()}
    if isinstance(value, list):
        return [_with_defaults(item, schema.get("items", {}), folder) for item in value]
    if isinstance(value, str) and schema.get("format") == PATH:
        return str(Path(folder, value))
    if isinstance(value, float) and value.is_integer() and "integer" in schema.get("type", ()):
        return int(value)  # 300.0 is an integer to JSON schema
    if isinstance(value, str) and schema.get("format") == FREE_TEXT:
        return " ".join(value.split())
    return value


def _check_values(value: Any, key: str = "") -> None:
    """Names are text, every text can be written in every page, numbers are finite; YAML allows otherwise."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        path = f"{key}.{key_shown(name)}" if key else key_shown(name)
        if isinstance(value, dict) and not isinstance(name, str):
            raise InputError(f"{path}: the name {shown(name)} is no text; allowed: text, in quotes if need be")
        if isinstance(value, dict) and UNWRITABLE.search(str(name)):
            raise InputError(f"{key or 'config'}: the name {shown(name)} is no line of text; allowed: one that is")
        _check_values(item, path)
    if isinstance(value, str) and (found := UNWRITABLE.search(" ".join(value.split()))):
        raise InputError(f"{key}: has the character {found[0]!a}; allowed: text without control characters")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise InputError(f"{key}: a whole number of more than 63 bits; allowed: a smaller one")
    if isinstance(value, float) and not isfinite(value):
        raise InputError(f"{key}: {value} is not allowed; allowed: a finite number")
