"""The numbers of the paper's tables, to set beside one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mechdiff.circuits import Head
from mechdiff.common.errors import InputError
from mechdiff.tasks.boxes.desiderata import POSITIONAL

BASE = "Llama-7B"
CIRCUITS = (BASE, "Goat-7B", "FLoat-7B")  # the models whose circuit the paper finds
MODELS = (BASE, "Vicuna-7B", *CIRCUITS[1:])
GROUPS = ("A", "B", "C", "D")


def published(path: str | Path) -> dict[str, Any]:
    """The paper's tables, read from resources/paper.yaml; InputError names file and key of anything unexpected.

    ``chance_accuracy``, ``random_circuits`` (how many are averaged); ``models``: model -> fine-tuned on, None for the
    base; ``groups``: group -> name, position.
    ``faithfulness`` (Tables 1, A5, A9): circuit -> model -> full_model, circuit, random_circuit, faithfulness.
    ``completeness`` (A1, A4, A8): circuit -> A to D -> full_model, circuit, incompleteness; and -> random -> subsets,
    and [mean, standard deviation] of the same three.
    ``heads`` (A2, A3, A7): circuit -> group -> candidates (before pruning), size, function, functional (heads that DCM
    selects for that function; None with no function), heads (as Head, in the paper's order).
    ``overlap`` (A6, A10): fine-tuned circuit -> group -> base, own, intersection, precision, recall.
    ``positional`` (A11 to A13): desideratum -> accuracy, variance, example_target.
    """
    try:
        return _read(yaml.safe_load(Path(path).read_text(encoding="utf-8")), _SHAPE, "")
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def of_models(table: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """What a table of the paper has, by the names of a run's models; names: model -> the paper's model that it is."""
    return {ours: table[theirs] for ours, theirs in names.items() if theirs in table}


def of_pairs(table: Mapping[str, Any], names: Mapping[str, str]) -> dict[tuple[str, str], Any]:
    """The same for a table of circuits in models."""
    circuits = of_models(table, names)
    return {(c, m): row for c, rows in circuits.items() for m, row in of_models(rows, names).items()}


def _read(value: Any, shape: Any, key: str) -> Any:
    """The value in its shape: a mapping has exactly the shape's keys, all else is read by the shape, a function."""
    if not isinstance(shape, Mapping):
        try:
            return shape(value)
        except (ValueError, InputError) as error:
            raise InputError(f"{key}: {value!r} is not allowed; allowed: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{key or 'the whole file'}: {value!r} is not allowed; allowed: keys {', '.join(shape)}")
    prefix = f"{key}." if key else ""
    for name in value:
        if name not in shape:
            raise InputError(f"{prefix}{name}: unknown key; allowed: {', '.join(shape)}")
    for name in shape:
        if name not in value:
            raise InputError(f"{prefix}{name}: missing key")
    return {name: _read(value[name], part, f"{prefix}{name}") for name, part in shape.items()}


def _is(allowed: str, holds: Callable[[Any], bool]) -> Callable[[Any], Any]:
    """A reader of values for which this holds."""

    def read(value: Any) -> Any:
        if not holds(value):
            raise ValueError(allowed)
        return value

    return read


def _heads(value: Any) -> list[Head]:
    if not (isinstance(value, list) and value and all(isinstance(text, str) for text in value)):
        raise ValueError("a list of heads like L15 H3")
    heads = [Head.parse(text) for text in value]
    if len(set(heads)) < len(heads):
        raise ValueError("each head once")
    return heads


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_share, value))


_share = _is("a number from 0 to 1", _is_share)
_ratio = _is("a number from 0 to 2", lambda value: type(value) in (int, float) and 0 <= value <= 2)
_count = _is("a whole number above 0", _is_count)
_pair = _is("[mean, standard deviation], from 0 to 1", _is_pair)
_text = _is("text", lambda value: isinstance(value, str))
_place = _is("last, query_label, previous_query_label", ("last", "query_label", "previous_query_label").__contains__)
_function = _is("object, position, null", ("object", "position", None).__contains__)

_REMOVED = {"full_model": _share, "circuit": _share, "incompleteness": _share}
_RANDOM = {"subsets": _count, "full_model": _pair, "circuit": _pair, "incompleteness": _pair}
_EVALUATED = {"full_model": _share, "circuit": _share, "random_circuit": _share, "faithfulness": _ratio}
_OVERLAP = {"base": _count, "own": _count, "intersection": _count, "precision": _share, "recall": _share}
_GROUP = {
    "candidates": _count,
    "size": _count,
    "function": _function,
    "functional": _is("a whole number above 0, or null", lambda value: value is None or _is_count(value)),
    "heads": _heads,
}
_SHAPE = {
    "chance_accuracy": _share,
    "random_circuits": _count,
    "models": {BASE: _is("null", lambda value: value is None)} | dict.fromkeys(MODELS[1:], _text),
    "groups": {key: {"name": _text, "position": _place} for key in GROUPS},
    "faithfulness": dict.fromkeys(CIRCUITS, dict.fromkeys(MODELS, _EVALUATED)),
    "completeness": dict.fromkeys(CIRCUITS, {"random": _RANDOM} | dict.fromkeys(GROUPS, _REMOVED)),
    "heads": dict.fromkeys(CIRCUITS, dict.fromkeys(GROUPS, _GROUP)),
    "overlap": dict.fromkeys(CIRCUITS[1:], dict.fromkeys(GROUPS, _OVERLAP)),
    "positional": {key: {"accuracy": _share, "variance": _share, "example_target": _text} for key in POSITIONAL},
}
