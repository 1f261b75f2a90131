"""One look for every figure, and how a figure is written.

Figures are as wide as a page's text (7 inches) or one of two columns, and are not meant to be scaled: text is 7 pt or
more. Colours are those of Okabe and Ito, which colour-blind readers can tell apart; each comes with a hatch and a
marker for print in grey. What was not measured (NaN) is never drawn as zero: a cross or words say "not evaluated".
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from warnings import catch_warnings, filterwarnings

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.textpath import text_to_path

from mechdiff.common.text import plain

PAGE, COLUMN = 7.0, 3.4  # inches wide
BELOW = 0.4  # inches for the legend under the panels
SMALL = 7  # pt, the smallest text
WIDEST = 2.1  # inches of a name
MARKS = 2  # on one letter
DPI = 200
GREY, PALE = "#666666", "#c4c4c4"
NOT_EVALUATED = "not evaluated"
LOOK = {
    "font.family": "DejaVu Sans",  # Matplotlib brings it, so every machine draws the same
    "font.size": SMALL,
    "axes.titlesize": 7.5,
    "axes.labelsize": SMALL,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "figure.titlesize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "text.hinting": "none",  # letters stand on screen where they stand in print
    "text.parse_math": False,  # names and tokens are printed as they are
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mechdiff",  # ids that do not change from one run to the next
    "savefig.dpi": DPI,
}
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
HATCHES = ("", "/////", ".....", "\\\\\\\\\\", "xxxxx", "-----", "|||||", "ooo")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


class Look(NamedTuple):
    """How one thing looks wherever it appears in a figure."""

    colour: str
    hatch: str
    marker: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Name -> its look, in the order given; after eight they come round again."""
    return {n: Look(*(kind[i % 8] for kind in (COLOURS, HATCHES, MARKERS))) for i, n in enumerate(names)}


def in_house_style(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw with the house style, whatever the reader's own settings of Matplotlib are."""

    @wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        with _house():
            figure = draw(*args, **kwargs)
            for text in figure.findobj(Text):
                text.set_text("\n".join(unstacked(plain(line)) for line in text.get_text().split("\n")))
            return figure

    return drawn


@contextmanager
def _house() -> Iterator[None]:
    """The house style. A letter that the font lacks is a box in PNG and itself in SVG, and no reason for a warning."""
    with style.context(["default", LOOK]), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from font")
        yield


def panels(rows: int, columns: int, height: float, **share: Any) -> tuple[Figure, np.ndarray]:
    """A figure of rows by columns of axes, one row ``height`` inches high; a single column of them is narrow."""
    figure = Figure((PAGE if columns > 1 else COLUMN, rows * height + BELOW), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def wrapped_panels(n: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """n panels in rows of at most ``columns``; a last row that is not full leaves its end empty."""
    columns = min(n, columns)
    figure, axes = panels(-(-n // columns), columns, height)
    for axis in axes.flat[n:]:
        axis.remove()
    return figure, list(axes.flat[:n])


def canvas(height: float) -> tuple[Figure, Axes]:
    """A page-wide figure to draw on freely: one axes without frame whose units are inches from the lower left."""
    figure = Figure((PAGE, height))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, PAGE), ylim=(0, height))
    axis.axis("off")
    return figure, axis


def bars(axis: Axes, x: Sequence[float] | np.ndarray, rows: pd.DataFrame, width: float, look: Look) -> None:
    """Bars of ``accuracy`` at x with whiskers from ``low`` to ``high``; a cross where there is no number."""
    places, found = np.asarray(x, float), rows["accuracy"].notna().to_numpy()
    drawn = rows[found]
    axis.bar(places[found], drawn["accuracy"], width, **filling(look))
    axis.vlines(places[found], drawn["low"], drawn["high"], color="black", linewidth=0.7)
    mark_missing(axis, places[~found])


def filling(look: Look) -> dict[str, Any]:
    """Keyword arguments of a bar."""
    return {"facecolor": look.colour, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0.3}


def mark_missing(axis: Axes, x: Sequence[float] | np.ndarray, y: float = 0.03) -> None:
    """A grey cross for each x that has no number."""
    if len(x):
        form: dict[str, Any] = {"linestyle": "", "marker": "x", "color": GREY, "markersize": 3, "label": NOT_EVALUATED}
        axis.plot(x, np.full(len(x), y), **form)


@in_house_style
def nothing_figure(why: str = NOT_EVALUATED) -> Figure:
    """Instead of a figure for which no model was evaluated, or for which there is nothing for another reason."""
    figure, axes = panels(1, 1, 1)
    axes[0, 0].axis("off")
    axes[0, 0].text(0.5, 0.5, why, ha="center", va="center", color=GREY)
    return figure


def legend_below(figure: Figure, *references: str, of_bars: Mapping[str, Look] = MappingProxyType({})) -> None:
    """One legend for all panels, under them: each label once, those of reference lines and "not evaluated" last."""
    found: dict[str, Artist] = {name: Patch(**filling(look)) for name, look in of_bars.items()}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    for label in (*references, NOT_EVALUATED):
        if label in found:
            found[label] = found.pop(label)
    if found:
        widest = 0.45 + 0.058 * max(map(len, found))  # inches
        columns = max(1, min(len(found), int(figure.get_figwidth() / widest)))
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, columnspacing=1.2)


def key_below(figure: Figure, names: dict[str, str]) -> None:
    """What the group letters on the axes stand for, in one wrapped line under the panels."""
    lines: list[str] = []
    for part in (f"{short(group)}: {short(name)}" for group, name in names.items()):
        if lines and inches(longer := f"{lines[-1]},  {part}") < figure.get_figwidth() - 0.2:
            lines[-1] = longer
        else:
            lines.append(part)
    figure.set_figheight(figure.get_figheight() + 0.13 * max(0, len(lines) - 2))  # there is room for two
    figure.supxlabel(",\n".join(lines), fontsize=SMALL)


def titled(group: str, name: str, width: float) -> str:
    """``(A) Value Fetcher``, wrapped to a width [inches]."""
    return textwrap.fill(f"({group}) {short(name)}", max(8, int(width / 0.063)))


def short(name: str, widest: float = WIDEST) -> str:
    """A name of the config as a figure has room for, without its middle if need be; tables have it whole."""
    name = cut = unstacked(plain(name))
    kept = len(name)
    while inches(cut) > widest:
        kept -= 1
        cut = f"{name[: (kept + 1) // 2]}…{name[len(name) - kept // 2 :]}"
    return cut


def inches(text: str, weight: str = "normal") -> float:
    """How wide a line of small text is drawn."""
    font = FontProperties(family="DejaVu Sans", weight=weight, size=SMALL)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, False)
    return width / 72


def unstacked(text: str) -> str:
    """The text without the marks on a letter that would stand on the line above: all but the first few."""
    kept, marks = "", 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        kept += character if marks <= MARKS else ""
    return kept


def spoken(name: str) -> str:
    """A name of the config, as one says it."""
    return name.replace("_", " ")


def save(figure: Figure, svg_path: str | Path, png_path: str | Path) -> None:
    """Write both files, each whole or not at all; the same figure gives the same bytes."""
    FigureCanvasAgg(figure)
    with _house():
        for form, path, metadata in (
            ("svg", svg_path, {"Date": None, "Creator": None}),
            ("png", png_path, {"Software": None}),
        ):
            temporary = Path(f"{path}.part")
            figure.savefig(temporary, format=form, metadata=metadata)
            temporary.replace(path)
