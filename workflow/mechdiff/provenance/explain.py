"""Where one cell of a table comes from: its value, its formula, and the jobs behind it down to dataset and weights.

1. The table's run is opened as its manifest seals it; the table must be what a job of it wrote.
2. Row and column give the cell, exact and as printed, with its interval and n.
3. Of Tables 1, A5 and A9 the number is made again from right answers, and must be the cell.
4. The jobs behind the cell are followed from record to record, each once. What they read and wrote is hashed, but for
   weights and activations, which ``mechdiff audit`` hashes.
5. The chain ends in files that no job of the run made. They are told as what they are: the datasets' objects and
   tokenizer, the models' weights, and others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os.path import abspath
from pathlib import Path
from typing import Any

import pandas as pd

from mechdiff.common.errors import InputError
from mechdiff.provenance.cells import find_row, read_table, row_key
from mechdiff.provenance.formulas import PUBLISHED, belongs_to_row, formula, has_formula, printed_title
from mechdiff.provenance.sealed import MANIFEST, WEIGHTS, Record, SealedRun, open_run, stays_outside
from mechdiff.report.tables.writing import read_pipe_table

TOLD_APART = ("code", "seed")  # parameters
DATASETS = {"generate_dataset": "split", "generate_desideratum": "desideratum"}  # rule -> what it makes one of


def explain(table_file: str | Path, row: str, column: str) -> dict[str, Any]:
    """Everything about one cell, as builtins. Raises InputError where row or column is wrong, or the chain broken."""
    run, path = _run_of(Path(table_file))
    made_by = run.maker.get(path)
    if made_by is None:
        raise InputError(f"{table_file}: no record of its run names it")
    record = run.records[made_by]
    for file in record["outputs"]:
        run.verify(file)
    table = read_table(run.root / path, path)
    if column not in table:
        raise InputError(f"{path}: no column {column!r}; allowed: {', '.join(table)}")
    number = find_row(table, row, path)
    cell = table.iloc[number]
    found = {"table": path, "row": row_key(table, number), "column": column} | _numbers(cell, column)
    found["printed"] = _printed(run, record, number, len(table))
    with_formula = has_formula(record, column)
    of_row = {f["path"]: _is_behind(run, f["path"], cell, column, with_formula) for f in record["inputs"]}
    chain = _chain(run, made_by, {path for path, is_of_it in of_row.items() if not is_of_it})
    for name in chain:
        for file in (*run.records[name]["inputs"], *run.records[name]["outputs"]):
            if not stays_outside(file["path"]):
                run.verify(file)
    found["formula"] = formula(run, record, cell, column) if with_formula else None
    numbers = {name: i for i, name in enumerate(chain, start=1)}
    found["jobs"] = [_job(run, name, numbers) for name in chain]
    records = [run.records[name] for name in chain]
    found["datasets"] = [_dataset(run, record) for record in records if record["rule"] in DATASETS]
    used = {f["path"]: f for record in records for f in record["inputs"] if of_row.get(f["path"], True)}
    found["models"] = [_model(model, used.values()) for model in _checkpoints(records)]
    told = {file["path"] for each in (*found["datasets"], *found["models"]) for file in each["files"]}
    ends = (file for file in used.values() if file["path"] not in run.maker and file["path"] not in told)
    found["other_inputs"] = [_short(file) for file in ends]
    return found


def _run_of(table: Path) -> tuple[SealedRun, str]:
    """The run that a table belongs to, and the table as its records call it."""
    here = Path(abspath(table))  # noqa: PTH100 - resolve() would follow a results/ that links to another disk
    if not here.is_file():
        raise InputError(f"{table}: no such file; allowed: a table of a finished run")
    folder = next((folder for folder in here.parents if (folder / MANIFEST).is_file()), None)
    if folder is None:
        raise InputError(f"{table}: no {MANIFEST} above it; allowed: a table of a finished run")
    run = open_run(folder)
    return run, here.relative_to(run.root).as_posix()


def _numbers(row: pd.Series, column: str) -> dict[str, Any]:
    """The cell's exact value, the ends of its interval and n, where the table has them."""
    low, high = (f"{column}_low", f"{column}_high") if column != "accuracy" else ("low", "high")
    n = None if column.startswith(PUBLISHED) else "n"  # which is of this run
    names = {"value": column, "low": low, "high": high, "n": n}
    return {key: _builtin(row[name]) if name in row else None for key, name in names.items()}


def _printed(run: SealedRun, record: Record, number: int, rows: int) -> dict[str, str] | None:
    """The row as a reader sees it: title -> text; none where the printed table has other rows."""
    file = next((file["path"] for file in record["outputs"] if file["path"].endswith(".md")), None)
    titles, *cells = read_pipe_table((run.root / file).read_text(encoding="utf-8")) if file else [[]]
    return dict(zip(titles, cells[number], strict=True)) if len(cells) == rows else None


def printed_cell(found: Mapping[str, Any]) -> str:
    """The printed form of the cell, or of its row where the cell is not printed by itself."""
    printed = found["printed"]
    if printed is None:
        return "not in the printed table"
    title = printed_title(found["column"]).lower()
    own = (text for name, text in printed.items() if name.lower() == title)
    return next(own, None) or " | ".join(printed.values())


def _is_behind(run: SealedRun, path: str, row: pd.Series, column: str, with_formula: bool) -> bool:
    """Whether a file that the table's job read is behind the cell."""
    if column.startswith(PUBLISHED):
        return path not in run.maker
    return not with_formula or belongs_to_row(run.records.get(run.maker.get(path, "")), row)


def _chain(run: SealedRun, first: str, left_out: Iterable[str]) -> list[str]:
    """The records behind one, itself first, each where it is met first."""
    chain: dict[str, None] = {}
    waiting = [(first, set(left_out))]
    while waiting:
        name, left_out = waiting.pop()
        if name not in chain:
            chain[name] = None
            read = (file["path"] for file in run.records[name]["inputs"])
            makers = [run.maker[path] for path in read if path in run.maker and path not in left_out]
            waiting += [(maker, set()) for maker in reversed(makers)]
    return list(chain)


def _job(run: SealedRun, name: str, numbers: Mapping[str, int]) -> dict[str, Any]:
    record = run.records[name]
    environment, params = record["environment"], record["params"]
    known = {key: environment.get(key) for key in ("device", "threads", "platform", "python")}
    return {
        "job": numbers[name],
        "rule": record["rule"],
        "wildcards": record["wildcards"],
        "params": {key: value for key, value in params.items() if key not in TOLD_APART},
        "seed": params.get("seed"),
        "code": record["code"]["version"],
        "git": record["git"],
        **known,
        "started": record.get("started"),
        "wall_seconds": record.get("wall_seconds"),
        "record": name,
        "inputs": [_short(f) | {"made_by": numbers.get(run.maker.get(f["path"], ""))} for f in record["inputs"]],
        "outputs": [_short(file) for file in record["outputs"]],
        "of_other_rows": [f["path"] for f in record["inputs"] if run.maker.get(f["path"], name) not in numbers],
    }


def _dataset(run: SealedRun, record: Record) -> dict[str, Any]:
    """A dataset of the chain: its rows and scenes, what it was drawn from, and how."""
    (file,) = record["outputs"]
    rows = pd.read_parquet(run.root / file["path"], columns=["scene_id"])
    of, params = DATASETS[record["rule"]], record["params"]
    return {
        "path": file["path"],
        of: record["wildcards"][of],
        "rows": len(rows),
        "scenes": int(rows["scene_id"].nunique()),
        "seed": params["seed"],
        "layout": params.get("layout"),
        "words": record.get("notes", {}).get("words"),
        "files": [_short(file) for file in record["inputs"] if Path(file["path"]).suffix not in WEIGHTS],
    }


def _checkpoints(records: Iterable[Record]) -> list[dict[str, Any]]:
    """The models that jobs opened, adapters' bases too, by name."""
    models: dict[str, dict[str, Any]] = {}

    def add(model: Any) -> None:
        if isinstance(model, dict) and {"name", "path"} <= model.keys():
            models.setdefault(model["name"], model)
            add(model.get("base") if model.get("adapter") else None)

    for record in records:
        for value in record["params"].values():
            add(value)
    return list(models.values())


def _model(model: Mapping[str, Any], files: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A model of the chain: where it is from, and its files; ``weights``: which of them are."""
    folders = [Path(folder) for folder in (model["path"], model.get("tokenizer")) if folder]
    own = [_short(file) for file in files if any(Path(file["path"]).is_relative_to(folder) for folder in folders)]
    hub = model.get("hub")
    return {
        "name": model["name"],
        "path": model["path"],
        "adapter_on": (model.get("base") or {}).get("name") if model.get("adapter") else None,
        "dtype": model.get("dtype"),
        "hub": hub,
        "revision": Path(model["path"]).name if hub else None,
        "files": own,
        "weights": [file["path"] for file in own if Path(file["path"]).suffix in WEIGHTS],
    }


def _short(file: Mapping[str, Any]) -> dict[str, Any]:
    return {"path": file["path"], "sha256": file["sha256"], "bytes": file.get("bytes")}


def _builtin(value: Any) -> Any:
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value
