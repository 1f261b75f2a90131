"""Tables as files: exact for machines, rounded for readers, with a caption that says what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from markdown_it import MarkdownIt
from tabulate import tabulate

from mechdiff.common import text
from mechdiff.common.files import write_text

PLANTED = (
    " These models have a planted mechanism: what is shown is that the pipeline finds what is there,"
    " not a fact about language."
)
INTERVALS = " In brackets the 95 % interval over resampled scenes."
NONE = "–"


def write_table(exact: pd.DataFrame, printed: pd.DataFrame, caption: str, paths: Mapping[str, str]) -> None:
    """Write a table as CSV and Parquet (exact), as Markdown, LaTeX and HTML (printed), and its caption for the report.

    paths: csv, parquet, md, tex, html, caption -> file.
    """
    if "note" in exact and exact["note"].isna().any():  # of models that were not evaluated, see noted()
        printed = printed.assign(note=exact["note"].to_numpy())
    write_text(paths["csv"], exact.to_csv(index=False, lineterminator="\n"))
    exact.to_parquet(paths["parquet"], index=False)
    titles = [str(column).replace("_", " ") for column in printed.columns]
    rows = [[NONE if pd.isna(value) else str(value) for value in row] for row in printed.to_numpy().tolist()]
    write_text(paths["md"], pipe_table(titles, rows) + f"\n\n{text.markdown(caption)}\n")
    write_text(paths["html"], text.html_page(Path(paths["html"]).stem.replace("_", " "), _html_table(titles, rows)))
    tex = f"\\begin{{table}}\n\\caption{{{text.tex(caption)}}}\n{_tex_table(titles, rows)}\n\\end{{table}}\n"
    write_text(paths["tex"], tex)
    write_caption(caption, paths["caption"])


def write_caption(caption: str, path: str) -> None:
    """Write a caption for the report, in which no word of it has a special meaning."""
    write_text(path, text.rst(caption) + "\n")


def pipe_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; titles and cells are text."""
    escaped = [[text.markdown(cell) for cell in row] for row in (titles, *rows)]
    return tabulate(escaped[1:], headers=escaped[0], tablefmt="pipe", disable_numparse=True)


def read_pipe_table(markdown: str) -> list[list[str]]:
    """The titles and the rows of the first table of a page in Markdown, as text; none where it has no table."""
    rows: list[list[str]] = []
    for token in MarkdownIt().enable("table").parse(markdown):
        if token.type == "table_close":
            break
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows:
            rows[-1].append("".join(part.content for part in token.children or ()))
    return rows


def _html_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    escaped = [[text.html(cell) for cell in row] for row in (titles, *rows)]
    return tabulate(escaped[1:], headers=escaped[0], tablefmt="unsafehtml", disable_numparse=True)


def _tex_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head, *body = (" & ".join(map(text.tex, row)) + r" \\" for row in (titles, *rows))
    columns = "l" * len(titles)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"])


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
