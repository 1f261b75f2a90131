"""Cells of a run's tables: exact tables read back, and rows named by what identifies them.

1. A table is read from CSV or Parquet, with every digit.
2. Its key columns are the first ones that tell its rows apart, less those that follow from others or only count.
3. A row is found by a value of its key (``mini-goat``), or by pairs (``circuit_of=mini-llama,model=mini-goat``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from mechdiff.common.errors import InputError

NAMED = 12  # rows that an error line names


def read_table(path: str | Path, name: str | None = None) -> pd.DataFrame:
    """A table with its exact values; InputError when it is none, under the name that it is to be told by."""
    name = name or str(path)
    readers = {".csv": _read_csv, ".parquet": pd.read_parquet}
    if Path(path).suffix not in readers:
        raise InputError(f"{name}: no table that can be read exactly; allowed: a .csv or .parquet file")
    try:
        return readers[Path(path).suffix](path)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be read as a table ({str(error).splitlines()[0]})") from error


def _read_csv(path: str | Path) -> pd.DataFrame:
    """A CSV as tables are written: what is missing is empty, and a word such as ``null`` is one."""
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def key_columns(*tables: pd.DataFrame) -> list[str]:
    """The columns that tell rows apart, in each of some tables of the same kind; none where no columns do."""
    shared = [column for column in tables[0] if all(column in table for table in tables)]

    def distinct(keys: list[str]) -> bool:
        return not any(table.duplicated(keys).any() for table in tables)

    keys = next((shared[:i] for i in range(1, len(shared) + 1) if distinct(shared[:i])), [])
    counts = [key for key in keys if any(pd.api.types.is_numeric_dtype(table[key]) for table in tables)]
    for key in (*reversed(counts), *reversed(keys)):
        rest = [other for other in keys if other != key]
        if key in keys and rest and distinct(rest) and (key in counts or _follows(key, rest, tables)):
            keys = rest
    return keys


def _follows(key: str, others: Iterable[str], tables: Iterable[pd.DataFrame]) -> bool:
    """Whether one of the other columns alone says what ``key`` is."""
    return any(all(t.groupby(other)[key].nunique().le(1).all() for t in tables) for other in others)


def find_row(table: pd.DataFrame, wanted: str, name: str) -> int:
    """The number of the one row that ``wanted`` names; InputError with what is allowed otherwise."""
    keys = key_columns(table)
    found = _by_pairs(table, wanted, name) if "=" in wanted else _by_value(table, wanted, keys)
    if found.sum() == 1:
        return int(found.to_numpy().argmax())
    some = table[found] if found.any() else table
    told = [_told(row, keys or list(table)) for _, row in some.head(NAMED).iterrows()]
    allowed = "; ".join(told) + (f"; and {len(some) - NAMED} more" if len(some) > NAMED else "")
    problem = f"{wanted!r} is {found.sum()} rows" if found.any() else f"no row {wanted!r}"
    raise InputError(f"{name}: {problem}; allowed: {allowed}")


def row_key(table: pd.DataFrame, number: int) -> dict[str, str]:
    """What identifies a row, as text."""
    row = table.iloc[number]
    return {key: str(row[key]) for key in key_columns(table)} or {"row": str(number + 1)}


def _by_pairs(table: pd.DataFrame, wanted: str, name: str) -> pd.Series:
    found = pd.Series(True, index=table.index)
    for pair in re.split(r",(?=\w+=)", wanted):
        column, _, value = pair.partition("=")
        if column not in table:
            raise InputError(f"{name}: no column {column!r}; allowed: {', '.join(table)}")
        found &= table[column].astype(str) == value
    return found


def _by_value(table: pd.DataFrame, wanted: str, keys: list[str]) -> pd.Series:
    """Rows with the value in a key column, the models' first; else in the first other column that has it."""
    for column in dict.fromkeys([*(key for key in keys if key == "model"), *keys, *table]):
        found = table[column].astype(str) == wanted
        if found.any():
            return found
    return pd.Series(False, index=table.index)


def _told(row: pd.Series, keys: list[str]) -> str:
    return str(row[keys[0]]) if len(keys) == 1 else ",".join(f"{key}={row[key]}" for key in keys)
