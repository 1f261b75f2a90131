"""The desiderata, with the run's own prompts (paper, Figure 2).

One line a desideratum: patching heads that encode it from the alternate into the original prompt makes the model answer
the target. In blue what the two prompts' queries are about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from string import ascii_lowercase

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechdiff.report.figures.style import COLOURS, PAGE, canvas, in_house_style, inches

COLUMNS = {"desideratum": 0.95, "alternate": 2.62, "original": 2.62, "target": 0.81}  # widths in inches
MARGIN, GAP, LINE = 0.08, 0.14, 0.135  # inches
PLAIN, STRONG = ("normal", "black"), ("bold", COLOURS[0])  # weight, colour
TARGET = ("bold", COLOURS[5])


@in_house_style
def desiderata_figure(rows: pd.DataFrame) -> Figure:
    """A table of prompts.

    rows: desideratum, alternate, original, target, and the substrings to emphasise, none or more: alternate_mark,
    original_mark.
    """
    cells = [
        {
            "desideratum": list(_lines(f"({ascii_lowercase[i]}) {row['desideratum']}", (), "desideratum")),
            "alternate": list(_lines(row["alternate"], row["alternate_mark"], "alternate")),
            "original": list(_lines(row["original"], row["original_mark"], "original")),
            "target": [[(str(row["target"]), TARGET)]],
        }
        for i, row in enumerate(rows.to_dict("records"))
    ]
    heights = [LINE * max(map(len, row.values())) + GAP for row in cells]
    y = sum(heights) + LINE + 2 * GAP
    figure, axis = canvas(y)
    y -= 0.05
    axis.hlines(y, MARGIN, PAGE - MARGIN, color="black", linewidth=0.9)
    y -= GAP / 2
    _write(axis, {c: [[(c.capitalize(), ("bold", "black"))]] for c in COLUMNS}, y)
    y -= LINE + GAP / 2
    for row, height in zip(cells, heights, strict=True):
        axis.hlines(y, MARGIN, PAGE - MARGIN, color="black", linewidth=0.4)
        _write(axis, row, y - GAP / 2)
        y -= height
    axis.hlines(y, MARGIN, PAGE - MARGIN, color="black", linewidth=0.9)
    return figure


def example_rows(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The first row of each desideratum's table, with its queried segments, its queries and its target emphasised."""
    rows = []
    for name, table in tables.items():
        first, row = table.iloc[0], {"desideratum": name.capitalize(), "target": table["target"].iloc[0]}
        for column, prompt, answer in (
            ("original", "prompt", "answer"),
            ("alternate", "alternate_prompt", "alternate_answer"),
        ):
            label = first[prompt].split()[-3]  # Box F contains the
            row[column] = first[prompt]
            row[f"{column}_mark"] = [f"{first[answer]} is in Box {label}", f"Box {label} contains"]
        rows.append(row)
    return pd.DataFrame(rows)


def _lines(text: str, marks: Sequence[str], column: str) -> Iterator[list[tuple[str, tuple[str, str]]]]:
    """The text in lines that fit the column, each as runs of (text, form); marked words are strong."""
    marked = {i for mark in marks if mark for m in re.finditer(re.escape(mark), text) for i in range(*m.span())}
    words = [(m[0], STRONG if m.start() in marked else PLAIN) for m in re.finditer(r"\S+", text)]
    line: list[tuple[str, tuple[str, str]]] = []
    used = 0.0
    for word, form in words:
        width = _width(f"{word} ", form)
        if line and used + width > COLUMNS[column] - GAP:
            yield _runs(line)
            line, used = [], 0.0
        line.append((word, form))
        used += width
    yield _runs(line)


def _runs(line: list[tuple[str, tuple[str, str]]]) -> list[tuple[str, tuple[str, str]]]:
    return [(" ".join(w for w, _ in same), form) for form, same in groupby(line, key=lambda item: item[1])]


def _width(text: str, form: tuple[str, str]) -> float:
    """Inches, the advance of a space at the end included."""
    return inches(f"{text}|", weight=form[0]) - inches("|", weight=form[0])


def _write(axis: Axes, row: dict[str, list], top: float) -> None:
    """One row of cells, its first line under ``top``."""
    left = MARGIN
    for column, width in COLUMNS.items():
        for i, line in enumerate(row[column]):
            x = left
            for text, form in line:
                axis.text(x, top - (i + 0.8) * LINE, text, weight=form[0], color=form[1], va="baseline")
                x += _width(f"{text} ", form)
        left += width
