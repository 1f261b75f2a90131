"""The causal impact of each head before and after fine-tuning (paper, Figures A5, A7).

A panel is a fine-tuned model; a column is a head, the strongest first. Its absolute path-patching score in the
fine-tuned model points up and in the base model down; coloured bars are heads in that model's own circuit. Fine-tuning
that keeps the mechanism and adds to it has its long bars coloured on both sides, and further ones only above.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mechdiff.report.figures.style import (
    COLOURS,
    PALE,
    in_house_style,
    legend_below,
    mark_missing,
    short,
    wrapped_panels,
)

HALVES = (("other", 1, COLOURS[5]), ("base", -1, COLOURS[2]))  # whose score, up or down, colour of its circuit

MOST_NAMES = 24  # heads that are named below their bars; of more, only the rank is


@in_house_style
def causal_impact_figure(table: pd.DataFrame) -> Figure:
    """Mirrored bars, one panel a fine-tuned model.

    table: base, other, group, head, base_score, other_score, in_base, in_other (is the head in that circuit).
    """
    found = list(table.groupby("other", sort=False))
    figure, axes = wrapped_panels(len(found), 2, 2.3)
    for axis, (_, own) in zip(axes, found, strict=True):
        own = own.sort_values("other_score", key=np.abs, ascending=False, kind="stable", ignore_index=True)
        scores = own[["base_score", "other_score"]].abs()
        for half, up, colour in HALVES:
            for inside, shade in ((True, colour), (False, PALE)):
                these = scores.loc[own[f"in_{half}"].astype(bool) == inside, f"{half}_score"].dropna()
                axis.bar(these.index, up * these, 0.85, color=shade)
            words = [f"{w} {short(own[half].iloc[0])} circuit" for w in ("in", "not in")]
            handles = [Patch(color=shade) for shade in (colour, PALE)]
            place: Literal["upper right", "lower right"] = "upper right" if up > 0 else "lower right"
            axis.add_artist(Legend(axis, handles, words, loc=place, borderaxespad=0, handlelength=1))
        mark_missing(axis, own.index[scores.isna().any(axis=1)], y=0)
        reach = 1.6 * (np.nan_to_num(scores.max(axis=None)) or 1)  # room for the words
        axis.axhline(0, color="black", linewidth=0.6)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{abs(y):g}"))
        if len(own) <= MOST_NAMES:
            axis.set_xticks(own.index, own["group"] + "  " + own["head"], rotation=90)
        else:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set(ylim=(-reach, reach), xlim=(-1, len(own)), xlabel="heads, strongest first")
        title = f"{short(own['other'].iloc[0])} (up) and {short(own['base'].iloc[0])} (down)"
        axis.set(title=title, ylabel="absolute patching score")
    legend_below(figure)
    return figure
