"""Completeness: does the model miss the circuit's heads as the circuit does? (paper, Figures A3, A4, A6)

A panel is a circuit C, a point a set K of its heads: the circuit's accuracy without K across, the full model's up. A
complete circuit has its points on the dashed line; a point above it means that heads outside the circuit fill in for K.
Bars are 95 % intervals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mechdiff.experiments.columns import RANDOM
from mechdiff.report.figures.style import (
    GREY,
    NOT_EVALUATED,
    in_house_style,
    legend_below,
    looks,
    short,
    wrapped_panels,
)
from mechdiff.report.tables.writing import with_interval


@in_house_style
def completeness_figure(points: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Random sets as small dots, whole groups as markers; one panel a circuit.

    points: circuit_of, removed (``random`` or a group), draw, full_model, circuit, and of both the ends of the interval
    (*_low, *_high). table: circuit_of, removed, incompleteness and its interval; that of the random sets, the mean
    difference of the two accuracies without sign, is printed above the panel.
    """
    look = looks(g for g in points["removed"].unique() if g != RANDOM)
    circuits = list(points.groupby("circuit_of", sort=False))
    figure, axes = wrapped_panels(len(circuits), 3, 2.5)
    for axis, (circuit, own) in zip(axes, circuits, strict=True):
        axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.8, label="y = x", zorder=1)
        random = own[own["removed"] == RANDOM]
        form: dict[str, Any] = {"s": 7, "color": GREY, "alpha": 0.7, "linewidth": 0, "label": "random K"}
        axis.scatter(random["circuit"], random["full_model"], **form)
        groups = own[own["removed"] != RANDOM]
        for group, row in groups.set_index("removed").iterrows():
            x, y, (colour, _, marker) = row["circuit"], row["full_model"], look[group]
            axis.hlines(y, row["circuit_low"], row["circuit_high"], color=colour, linewidth=0.8)
            axis.vlines(x, row["full_model_low"], row["full_model_high"], color=colour, linewidth=0.8)
            form = {"linestyle": "", "marker": marker, "markersize": 5, "markeredgewidth": 0, "zorder": 3}
            axis.plot(x, y, color=colour, label=f"K = group {group}", **form)
        score = table[(table["circuit_of"] == circuit) & (table["removed"] == RANDOM)].squeeze()
        text = NOT_EVALUATED if pd.isna(score["incompleteness"]) else with_interval(score, "incompleteness")
        missing = own.loc[own[["circuit", "full_model"]].isna().any(axis=1), "removed"].unique()
        note = f"\n{NOT_EVALUATED}: {', '.join(missing)}" if len(missing) else ""
        axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axis.set(xlabel=f"F(C\\K){note}", ylabel="F(M\\K)", xticks=np.linspace(0, 1, 6), yticks=np.linspace(0, 1, 6))
        axis.set_title(f"circuit of {short(circuit)}\nrandom K: mean |F(C\\K) − F(M\\K)|\n{text}")
    legend_below(figure, "y = x")
    return figure
