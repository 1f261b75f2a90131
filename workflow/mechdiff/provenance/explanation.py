"""What :mod:`mechdiff.provenance.explain` found about a cell, as text.

1. The cell: exact, printed, its formula and what was counted again.
2. The jobs behind it as an indented tree, each told once; what it read of another job has that job's number.
3. Where the chain ends: datasets, models, and other files that no job made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mechdiff.common.text import plain
from mechdiff.provenance.explain import printed_cell

Found = Mapping[str, Any]
SHOWN = 12  # digits of a sha256, and of a commit


def explanation_text(found: Found) -> str:
    """All of it, in lines."""
    return "\n".join(map(plain, [*_cell(found), "", *_tree(found["jobs"]), "", *_ends(found)]))


def _cell(found: Found) -> Iterator[str]:
    yield f"{found['table']}: {found['column']} of {_pairs(found['row'])}"
    ends = "" if found["low"] is None else f" [{found['low']}, {found['high']}]"
    n = "" if found["n"] is None or found["column"] == "n" else f", n = {found['n']}"
    yield f"  exact    {'undefined' if found['value'] is None else found['value']}{ends}{n}"
    yield f"  printed  {printed_cell(found)}"
    if found["formula"]:
        yield f"  formula  {found['formula']['words']}"
    if found["formula"] and found["formula"]["counted_in"]:
        yield f"           counted again in {found['formula']['counted_in']}: the cell agrees"


def _tree(jobs: list[Found]) -> Iterator[str]:
    by_number, told = {job["job"]: job for job in jobs}, set()
    waiting = [(jobs[0], 0)]
    while waiting:
        job, depth = waiting.pop()
        if job["job"] in told:
            continue
        told.add(job["job"])
        indent = "  " * depth
        yield f"{indent}[{job['job']}] {job['rule']} {_pairs(job['wildcards'])}".rstrip()
        yield from (f"{indent}    {line}" for line in _job(job))
        makers = [file["made_by"] for file in job["inputs"] if file["made_by"]]
        waiting += [(by_number[number], depth + 1) for number in reversed(makers)]


def _job(job: Found) -> Iterator[str]:
    """The lines of one job."""
    params = " ".join(f"{key}={_value(value)}" for key, value in job["params"].items())
    seed = "" if job["seed"] is None else f"seed {job['seed']}"
    if params or seed:
        yield f"with   {'; '.join(part for part in (seed, params) if part)}"
    git = job["git"]
    commit = f"git {git['commit'][:SHOWN]}{' and changes' if git['dirty'] else ''}" if git else "no git checkout"
    yield f"code   {job['code']}, {commit}"
    yield f"on     {job['device']}, {_counted(job['threads'], 'thread')}; {job['platform']}, Python {job['python']}"
    yield f"at     {job['started']}, {job['wall_seconds']} s"
    others = set(job["of_other_rows"])
    for file in (file for file in job["inputs"] if file["path"] not in others):
        yield f"read   {_file(file)}" + (f"  of [{file['made_by']}]" if file["made_by"] else "")
    if others:
        yield f"read   {_counted(len(others), 'file')} for other rows of the table"
    for file in job["outputs"]:
        yield f"wrote  {_file(file)}"


def _ends(found: Found) -> Iterator[str]:
    yield "It begins with"
    for dataset in found["datasets"]:
        of = next(f"{key} {dataset[key]}" for key in ("split", "desideratum") if key in dataset)
        layout = f", layout {dataset['layout']}" if dataset["layout"] else ""
        rows = f"{dataset['rows']} rows, {_counted(dataset['scenes'], 'scene')}"
        yield f"  dataset {dataset['path']}: {of}, {rows}, seed {dataset['seed']}{layout}, drawn from"
        yield from (f"    {_file(file)}" for file in dataset["files"])
    for model in found["models"]:
        of = f"{model['hub']} at {model['revision']}" if model["hub"] else model["path"]
        adapter = f", an adapter on {model['adapter_on']}" if model["adapter_on"] else ""
        yield f"  model {model['name']}: {of}{adapter}"
        for file in model["files"]:
            yield f"    {_file(file)}" + ("  weights" if file["path"] in model["weights"] else "")
    for file in found["other_inputs"]:
        yield f"  file {_file(file)}"


def _file(file: Found) -> str:
    size = "" if file["bytes"] is None else f"  {file['bytes']} bytes"
    return f"{file['path']}  {file['sha256'][:SHOWN]}{size}"


def _value(value: Any) -> str:
    """A parameter in one word where it is one; a model by its name, for its files are told at the end."""
    if isinstance(value, dict) and {"name", "path"} <= value.keys():
        return f"{value['name']}({value.get('dtype')}, {_value(value.get('device'))})"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
