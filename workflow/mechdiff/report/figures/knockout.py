"""Attention knockout: along which edges information flows, and in which layers (paper, Figures A1, A2).

A panel is a model. From a layer on, the query position is kept from attending to a key position; a line shows what
accuracy is left. Where a line lies below that of the untouched model (dashed), the layers from there on need the edge;
where it comes back, they no longer do. Bands are 95 % intervals.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mechdiff.report.figures.style import (
    GREY,
    in_house_style,
    legend_below,
    looks,
    mark_missing,
    short,
    spoken,
    wrapped_panels,
)


@in_house_style
def knockout_figure(table: pd.DataFrame) -> Figure:
    """Lines per key position, one panel a model.

    table: the rows of one query position: model, query, key, first_layer, accuracy, low, high, model_accuracy.
    """
    look = looks(table["key"].unique())
    models = list(table.groupby("model", sort=False))
    figure, axes = wrapped_panels(len(models), 3, 1.75)
    for axis, (model, own) in zip(axes, models, strict=True):
        for key, rows in own.groupby("key", sort=False):
            rows = rows.sort_values("first_layer")
            form: dict[str, Any] = {"color": look[key].colour, "zorder": 3}
            axis.plot(rows["first_layer"], rows["accuracy"], marker=look[key].marker, label=spoken(key), **form)
            axis.fill_between(rows["first_layer"], rows["low"], rows["high"], alpha=0.2, linewidth=0, **form)
        untouched = own["model_accuracy"].iloc[0]
        if pd.notna(untouched):
            axis.axhline(untouched, color=GREY, linestyle="--", linewidth=0.9, label="untouched model")
        mark_missing(axis, own.loc[own["accuracy"].isna(), "first_layer"].unique())
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set(title=short(model), xlabel="Knockout starting layer", ylim=(0, 1.04))
        axis.margins(x=0.05)
        if axis.get_subplotspec().is_first_col():
            axis.set_ylabel("accuracy")
    figure.suptitle(f"Attention from the {spoken(table['query'].iloc[0])} position blocked")
    legend_below(figure, "untouched model")
    return figure
