"""What differs between two finished runs.

1. Both are opened as their manifests seal them. Jobs are matched by rule and wildcards, files by path within the run.
2. Config: parameters of jobs that both have, and jobs that only one has.
3. Code: modules whose hash differs, and the git commit.
4. Environment: Python, packages, platform, device, threads.
5. Weights and other files that are not the run's own.
6. Numbers: cells of tables, matched by their rows' keys, largest difference first, in units of the column's largest
   value. What else of the run differs is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from mechdiff.common.text import plain
from mechdiff.provenance.audit import TABLES
from mechdiff.provenance.cells import key_columns, read_table
from mechdiff.provenance.sealed import Record, SealedRun, open_run

ABSENT = "–"
CELLS = 10  # of a table that are shown
SHOWN = 12  # digits of a sha256
Differences = dict[str, list[str]]


def run_diff(a: str | Path, b: str | Path) -> tuple[Differences, list[str]]:
    """Section -> its lines, sections that differ alone; and the names of the tables that are equal."""
    runs = open_run(a), open_run(b)
    numbers, equal = _numbers(*runs)
    found = {
        "config": _config(*runs),
        "code": [*_compared(*runs, _modules, _short), *_compared(*runs, _commit)],
        "environment": _compared(*runs, _environment),
        "weights and other inputs": _compared(*runs, _inputs, _short),
        "numbers": numbers,
    }
    return {section: lines for section, lines in found.items() if lines}, equal


def diff_text(a: str | Path, b: str | Path) -> str:
    """The differences, section by section; one line where there are none."""
    found, equal = run_diff(a, b)
    if not found:
        return f"{a} and {b}: the same config, code, environment, weights and numbers ({len(equal)} tables)"
    lines = [f"A is {a}, B is {b}"]
    for section, differences in found.items():
        lines += ["", f"{section}, A | B", *(f"  {line}" for line in differences)]
    return "\n".join([*map(plain, lines), "", f"equal tables: {', '.join(equal) or 'none'}"])


def _config(a: SealedRun, b: SealedRun) -> list[str]:
    jobs_a, jobs_b = _jobs(a), _jobs(b)
    rules: dict[tuple[str, str, str], list[str]] = {}
    for job in jobs_a.keys() & jobs_b.keys():
        params = _flat(jobs_a[job]), _flat(jobs_b[job])
        for key in params[0].keys() | params[1].keys():
            x, y = (each.get(key, ABSENT) for each in params)
            if x != y:
                rules.setdefault((key, x, y), []).append(job[0])
    lines = [f"{key}: {x} | {y}  in {', '.join(sorted(set(of)))}" for (key, x, y), of in sorted(rules.items())]
    for name, only in (("A", jobs_a.keys() - jobs_b.keys()), ("B", jobs_b.keys() - jobs_a.keys())):
        lines += [f"only in {name}: {rule} {wildcards}".rstrip() for rule, wildcards in sorted(only)]
    return lines


def _jobs(run: SealedRun) -> dict[tuple[str, str], dict[str, Any]]:
    """(Rule, wildcards) -> the parameters of that job, less the code version, which has a section of its own."""
    return {
        (record["rule"], " ".join(f"{k}={v}" for k, v in sorted(record["wildcards"].items()))): {
            key: value for key, value in record["params"].items() if key != "code"
        }
        for record in run.records.values()
    }


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Parameters by dotted name, as text; lists as a whole."""
    if isinstance(value, dict) and (value or not name):
        parts = (_flat(each, f"{name}.{key}" if name else str(key)) for key, each in value.items())
        return {key: text for part in parts for key, text in part.items()}
    return {name: json.dumps(value, ensure_ascii=False)}


def _compared(
    a: SealedRun,
    b: SealedRun,
    facts: Callable[[SealedRun, Record], dict[str, Any]],
    shown: Callable[[str], str] = str,
) -> list[str]:
    """A line for each fact that jobs of two runs do not agree on; a run may know several values of one fact."""
    known = [_facts(run, facts) for run in (a, b)]
    lines = []
    for name in sorted(known[0].keys() | known[1].keys()):
        values = [each.get(name, {ABSENT}) for each in known]
        if values[0] != values[1]:
            lines.append(f"{name}: " + " | ".join(", ".join(sorted(map(shown, each))) for each in values))
    return lines


def _facts(run: SealedRun, facts: Callable[[SealedRun, Record], dict[str, Any]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for record in run.records.values():
        for name, value in facts(run, record).items():
            found.setdefault(name, set()).add(str(value))
    return found


def _modules(run: SealedRun, record: Record) -> dict[str, Any]:
    return record["code"]["modules"]


def _commit(run: SealedRun, record: Record) -> dict[str, Any]:
    git = record["git"]
    return {"git commit": git["commit"] + (" and changes" if git["dirty"] else "") if git else "no checkout"}


def _environment(run: SealedRun, record: Record) -> dict[str, Any]:
    environment = record["environment"]
    return environment["packages"] | {key: value for key, value in environment.items() if key != "packages"}


def _inputs(run: SealedRun, record: Record) -> dict[str, Any]:
    files = (*record["inputs"], *record["outputs"])
    return {file["path"]: file["sha256"] for file in files if not run.own(file["path"])}


def _short(sha256: str) -> str:
    return sha256[:SHOWN]


def _numbers(a: SealedRun, b: SealedRun) -> tuple[list[str], list[str]]:
    """Lines for tables that differ, and the names of those that do not."""
    outputs = _outputs(a), _outputs(b)
    tables = [{Path(path).stem: path for path in of if _is_table(path)} for of in outputs]
    lines, equal = [], []
    for name in sorted(tables[0].keys() | tables[1].keys()):
        if not all(name in of for of in tables):
            lines.append(f"{name}: only in {'A' if name in tables[0] else 'B'}")
            continue
        files = [of[paths[name]] for of, paths in zip(outputs, tables, strict=True)]
        for run, file in zip((a, b), files, strict=True):
            run.verify(file)
        differing = list(
            differing_cells(*(read_table(run.root / f["path"]) for run, f in zip((a, b), files, strict=True)))
        )
        if differing:
            more = [f"  and {len(differing) - CELLS} more"] if len(differing) > CELLS else []
            lines += [f"{name}: {_counted(differing)}", *(f"  {line}" for line in differing[:CELLS]), *more]
        else:
            equal.append(name)
    others = [path for path in outputs[0] if path in outputs[1] and not path.startswith(f"{TABLES}/")]
    changed = sum(outputs[0][path]["sha256"] != outputs[1][path]["sha256"] for path in others)
    return [*lines, f"{changed} of {len(others)} other files"] if changed else lines, equal


def _is_table(path: str) -> bool:
    return path.startswith(f"{TABLES}/") and path.endswith(".parquet")


def _counted(lines: list[str]) -> str:
    return f"{len(lines)} difference{'' if len(lines) == 1 else 's'}"


def _outputs(run: SealedRun) -> dict[str, dict[str, Any]]:
    made = (file for record in run.records.values() for file in record["outputs"] if run.own(file["path"]))
    return {run.relative(file["path"]): file for file in made}


def differing_cells(a: pd.DataFrame, b: pd.DataFrame) -> Iterator[str]:
    """A line for each cell, row or column that differs; cells largest difference first, then texts."""
    for name, only in (("A", a.columns.difference(b.columns)), ("B", b.columns.difference(a.columns))):
        yield from (f"column {column}: only in {name}" for column in only)
    keys = key_columns(a, b) if len(a) and len(b) else []
    a, b = (table.set_index(keys) if keys else table for table in (a, b))
    for name, only in (("A", a.index.difference(b.index)), ("B", b.index.difference(a.index))):
        yield from (f"row {_row(keys, at)}: only in {name}" for at in only)
    rows = a.index.intersection(b.index)
    cells = []
    for column in (column for column in a.columns if column in b.columns):
        x, y = a.loc[rows, column], b.loc[rows, column]
        differs = ((x != y) & ~(x.isna() & y.isna())).fillna(True).astype(bool)
        numeric = pd.api.types.is_numeric_dtype(x) and pd.api.types.is_numeric_dtype(y)
        scale = max(x.abs().max(), y.abs().max(), 1e-300) if numeric and differs.any() else 1
        for at in rows[differs]:
            size = abs(float(x[at]) - float(y[at])) / scale if numeric and pd.notna(x[at]) and pd.notna(y[at]) else -1
            cells.append((-size, f"{column} of {_row(keys, at)}: {_text(x[at])} | {_text(y[at])}"))
    yield from (line for _, line in sorted(cells, key=lambda cell: cell[0]))


def _row(keys: list[str], at: Any) -> str:
    values = at if isinstance(at, tuple) else (at,)
    return " ".join(f"{key}={value}" for key, value in zip(keys or ["row"], values, strict=True))


def _text(value: Any) -> str:
    return ABSENT if pd.isna(value) else str(value)
