"""What experiments write and tables read: words in columns, and why a model was not evaluated.

Light to import: a table needs none of what an experiment needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import pandas as pd

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

RANDOM = "random"  # a random half of a circuit, in place of a group
OUTPUT = "output"  # the part of a head that is patched, where it is not its inputs
CIRCUIT = "circuit"  # all groups, in place of one
FUNCTIONAL, ALL = "functional", "all"  # which heads of a group are patched across models


def read_each(read: Callable[[str], T], names: Iterable[K], files: Iterable[str]) -> dict[K, T]:
    """Name -> what ``read`` makes of its file; as many files as names."""
    return {name: read(file) for name, file in zip(names, files, strict=True)}


def read_shards(names: Iterable[K], files: Sequence[str]) -> dict[K, pd.DataFrame]:
    """Name -> what the shards of its job wrote, one after the other; as many files for each name."""
    names = list(names)
    shards = len(files) // len(names)
    tables = [pd.read_parquet(file) for file in files]
    parts = (tables[i * shards : (i + 1) * shards] for i in range(len(names)))
    return {name: pd.concat(part, ignore_index=True) for name, part in zip(names, parts, strict=True)}


def not_evaluated(*checks: str) -> str | None:
    """Why nothing is evaluated on one of some models, from the files of rule check_model; None when it is."""
    reasons = [json.loads(Path(check).read_text())["not_evaluated"] for check in checks]
    return next((reason for reason in reasons if reason), None)


def rounding(check: str) -> float:
    """The largest relative change that rounding makes, from a file of rule check_model."""
    return json.loads(Path(check).read_text())["rounding"]
