"""Tables as files: exact for machines, rounded for readers, with a caption that says what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from tabulate import tabulate

from mechdiff.provenance import write_text

PLANTED = (
    " These models have a planted mechanism: what is shown is that the pipeline finds what is there,"
    " not a fact about language."
)
INTERVALS = " In brackets the 95 % interval over resampled scenes."
NONE = "–"
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ font: 14px system-ui, sans-serif; margin: 1em }} table {{ border-collapse: collapse }}
th, td {{ padding: 0.25em 0.8em; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }}
th {{ border-bottom: 2px solid #444; white-space: nowrap }}
</style>
{}
"""


def write_table(exact: pd.DataFrame, printed: pd.DataFrame, caption: str, paths: Mapping[str, str]) -> None:
    """Write a table as CSV and Parquet (exact), as Markdown, LaTeX and HTML (printed), and its caption for the report.

    paths: csv, parquet, md, tex, html, caption -> file.
    """
    if "note" in exact and exact["note"].isna().any():  # of models that were not evaluated, see noted()
        printed = printed.assign(note=exact["note"].to_numpy())
    write_text(paths["csv"], exact.to_csv(index=False, lineterminator="\n"))
    exact.to_parquet(paths["parquet"], index=False)
    rows = [[NONE if pd.isna(value) else value for value in row] for row in printed.to_numpy().tolist()]
    titles = [str(column).replace("_", " ") for column in printed.columns]
    form: dict[str, Any] = {"headers": titles, "disable_numparse": True}
    write_text(paths["md"], tabulate(rows, tablefmt="pipe", **form) + f"\n\n{caption}\n")
    write_text(paths["html"], PAGE.format(tabulate(rows, tablefmt="html", **form)))
    tex = tabulate(rows, tablefmt="latex_booktabs", **form)
    write_text(paths["tex"], f"\\begin{{table}}\n\\caption{{{_tex(caption)}}}\n{tex}\n\\end{{table}}\n")
    write_caption(caption, paths["caption"])


def write_caption(caption: str, path: str) -> None:
    """Write a caption for the report, in which no word of it has a special meaning."""
    for character in "\\*`|_":
        caption = caption.replace(character, f"\\{character}")
    write_text(path, caption + "\n")


def noted(table: pd.DataFrame, key: str, reasons: Mapping[str, str | None]) -> pd.DataFrame:
    """The table and, where models were not evaluated, a row for each, under ``key``, with a note that says so."""
    missing = [{key: model, "note": f"not evaluated: {reason}"} for model, reason in reasons.items() if reason]
    return pd.concat([table, pd.DataFrame(missing)], ignore_index=True) if missing else table


def evaluated(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the rows of models that were not evaluated."""
    return table[table["note"].isna()] if "note" in table else table


def most(column: pd.Series) -> int:
    """The largest of some counts; 0 where there are none."""
    return 0 if column.isna().all() else int(column.max())


def rounded(table: pd.DataFrame, columns: Sequence[str], digits: int = 2) -> pd.DataFrame:
    """The table with some columns as text of two decimals, undefined values as a dash."""
    return table.assign(**{c: [number(v, digits) for v in table[c]] for c in columns})


def number(value: float, digits: int = 2) -> str:
    """A number as printed."""
    return NONE if pd.isna(value) else f"{value:.{digits}f}"


def with_interval(row: pd.Series, name: str, low: str | None = None, high: str | None = None) -> str:
    """``0.68 [0.64, 0.72]``, and what the paper has for that cell, where it has one."""
    low, high = low or f"{name}_low", high or f"{name}_high"
    if pd.isna(row[name]):
        return NONE
    published = row.get(f"paper_{name}")
    beside = "" if published is None or pd.isna(published) else f" (paper {published:.2f})"
    return f"{row[name]:.2f} [{row[low]:.2f}, {row[high]:.2f}]{beside}"


def _tex(text: str) -> str:
    for character in "\\%&_#":
        text = text.replace(character, "\\textbackslash{}" if character == "\\" else f"\\{character}")
    return text
