"""How the numbers of Tables 1, A5 and A9 follow from right answers, counted again from the evaluation's own rows.

1. The evaluation of the row's circuit in the row's model is found among what the table's job read.
2. Right answers are counted: of the model, of the circuit, of the random circuits.
3. The column's formula is written out in words and with those counts.
4. The number that it gives is the cell's, or the table is not what its evaluation says, and that is the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose, nan
from typing import Any

import pandas as pd

from mechdiff.common.errors import InputError
from mechdiff.provenance.sealed import Record, SealedRun
from mechdiff.report.tables.circuits import QUANTITIES, faithfulness_table

RULES = ("table_1", "table_own_circuits")
EVALUATION = "evaluate_circuit"
PUBLISHED = "paper_"
ENDS = {"_low": "lower", "_high": "upper"}


def has_formula(record: Record, column: str) -> bool:
    """Whether a column is a number that follows from right answers."""
    return record["rule"] in RULES and column not in ("circuit_of", "model", "fine_tuned_on", "note")


def belongs_to_row(record: Record | None, row: pd.Series) -> bool:
    """Whether what a job made is behind this row, not another one; record: None for a file that no job made."""
    names = record["wildcards"] if record else {}
    if "circuit" in names:
        return (names["circuit"], names["model"]) == (row["circuit_of"], row["model"])
    return names.get("model", row["model"]) in (row["circuit_of"], row["model"])


def formula(run: SealedRun, record: Record, row: pd.Series, column: str) -> dict[str, Any]:
    """The column's formula in words, the counts it was made from, and the file they were counted in."""
    if column.startswith(PUBLISHED):
        return {"words": "the paper's own number, typed from its table", "counted_in": None, "counts": {}}
    file = _evaluation_file(run, record, row)
    evaluation = pd.read_parquet(run.root / file)
    counts = right_answers(evaluation)
    value = _value(evaluation, counts, record, row, column)
    if not _same(row[column], value):
        of = f"circuit of {row['circuit_of']} in {row['model']}"
        raise InputError(f"{column} of the {of} is {row[column]}, but the right answers in {file} give {value}")
    return {"words": _words(column, counts, record["params"]), "counted_in": file, "counts": counts}


def right_answers(evaluation: pd.DataFrame) -> dict[str, int]:
    """Examples, scenes, right answers of model, circuit and all random circuits together, and how many of these."""
    by = dict(iter(evaluation.groupby("condition")))
    counts = {"n": len(by["model"]), "scenes": int(by["model"]["scene_id"].nunique())}
    counts |= {"full_model": int(by["model"]["correct"].sum())}
    if "circuit" in by:
        counts |= {"circuit": int(by["circuit"]["correct"].sum())}
        counts |= {"random_circuit": 0, "draws": 0}
    if "random" in by:
        random = by["random"]
        counts |= {"random_circuit": int(random["correct"].sum()), "draws": int(random["draw"].nunique())}
    return counts


def _evaluation_file(run: SealedRun, record: Record, row: pd.Series) -> str:
    wanted = {"circuit": row["circuit_of"], "model": row["model"]}
    for file in record["inputs"]:
        made_by = run.records.get(run.maker.get(file["path"], ""), {})
        if made_by.get("rule") == EVALUATION and made_by.get("wildcards") == wanted:
            return file["path"]
    raise InputError(f"{record['rule']}: read no evaluation of the circuit of {wanted['circuit']} in {wanted['model']}")


def _value(evaluation: pd.DataFrame, counts: Mapping[str, int], record: Record, row: pd.Series, column: str) -> float:
    """The cell, computed again: from counts, and the ends of intervals as the table's job did."""
    if column.endswith(tuple(ENDS)):
        pair, params = (row["circuit_of"], row["model"]), record["params"]
        unsaid, nothing = dict.fromkeys(pair, ""), dict.fromkeys(pair)
        made = faithfulness_table({pair: evaluation}, unsaid, nothing, params["resamples"], params["seed"], {})
        return float(made[column].iloc[0])
    n, right = counts["n"], {"full_model": counts["full_model"], "circuit": counts.get("circuit", nan)}
    right["random_circuit"] = counts["random_circuit"] / counts["draws"] if counts.get("draws") else nan
    values = {"n": n, "faithfulness": right["circuit"] / right["full_model"] if right["full_model"] else nan}
    values |= {f"n_correct_{name}": count for name, count in right.items()}
    values |= {name: count / n for name, count in right.items()}
    return values[column]


def _words(column: str, counts: Mapping[str, int], params: Mapping[str, Any]) -> str:
    for ending, which in ENDS.items():
        if column.endswith(ending):
            name, scenes = column.removesuffix(ending), f"{counts['scenes']} scenes"
            how = f"over {params['resamples']} resamples of its {scenes}, seed {params['seed']}"
            if counts.get(name) == (0 if ending == "_high" else counts["n"] * _runs(name, counts)):
                how = f"by the exact binomial bound of its {scenes}, for all agree"
            return f"{which} end of the 95 % interval {how}, of {_words(name, counts, params)}"
    n, model = counts["n"], counts["full_model"]
    circuit, random = counts.get("circuit", "–"), counts.get("random_circuit", "–")
    draws = counts.get("draws", 0)
    return {
        "n": "examples evaluated",
        "n_correct_full_model": "examples that the untouched model answers right",
        "n_correct_circuit": "examples that the circuit answers right, all other heads mean-ablated",
        "n_correct_random_circuit": f"right answers of random circuits / their number = {random} / {draws}",
        "full_model": f"F(M) = right answers of the untouched model / examples = {model} / {n}",
        "circuit": f"F(C) = right answers of the circuit / examples = {circuit} / {n}",
        "random_circuit": f"right answers of random circuits / (their number x examples) = {random} / ({draws} x {n})",
        "faithfulness": f"F(C)/F(M) = ({circuit} / {n}) / ({model} / {n}) = {circuit} / {model}",
    }[column]


def _runs(name: str, counts: Mapping[str, int]) -> int:
    """How often an example was run for a count."""
    return counts.get("draws", 0) if name == "random_circuit" else 1


def _same(cell: Any, value: float) -> bool:
    if pd.isna(cell) or pd.isna(value):
        return bool(pd.isna(cell) and pd.isna(value))
    return isclose(cell, value, rel_tol=1e-9, abs_tol=1e-12)


def printed_title(column: str) -> str:
    """Under which title a column, or the end of its interval, is printed."""
    for ending in ENDS:
        column = column.removesuffix(ending)
    return QUANTITIES.get(column, column.replace("_", " "))
