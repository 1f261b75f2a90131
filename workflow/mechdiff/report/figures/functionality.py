"""What each group of heads encodes (paper, Figures 3, A8, A9).

A panel is a group, a cluster of bars a desideratum, a bar a model: how often patching the group's functional heads,
whose number stands above, gives the desideratum's target. Whiskers are 95 % intervals. A group encodes that whose bars
rise well above the dashed line; a mechanism that fine-tuning kept has the same profile in every model.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mechdiff.report.figures.style import (
    GREY,
    NOT_EVALUATED,
    PAGE,
    bars,
    in_house_style,
    legend_below,
    looks,
    panels,
    short,
    titled,
)
from mechdiff.report.tables.writing import most


@in_house_style
def functions_figure(table: pd.DataFrame, chance: float) -> Figure:
    """Panels: circuits down, groups across.

    table: circuit_of, model, group, name, desideratum, accuracy, low, high, heads (how many); chance: an accuracy.
    """
    circuits, models, desiderata = (table[c].unique() for c in ("circuit_of", "model", "desideratum"))
    names = dict(zip(table["group"], table["name"], strict=True))
    look, width = looks(models), 0.84 / len(models)
    crowded = len(names) > 4
    figure, axes = panels(len(circuits), len(names), 2.3 if crowded else 1.85, sharex=True, sharey=True)
    for (i, j), axis in np.ndenumerate(axes):
        group = list(names)[j]
        own = table[(table["circuit_of"] == circuits[i]) & (table["group"] == group)]
        for k, model in enumerate(models):
            rows = own[own["model"] == model].set_index("desideratum").reindex(desiderata)
            x = np.arange(len(desiderata)) + (k - (len(models) - 1) / 2) * width
            bars(axis, x, rows, width, look[model])
        axis.axhline(chance, color=GREY, linestyle="--", linewidth=0.8, label="chance")
        axis.set_xticks(range(len(desiderata)), desiderata, rotation=90 if crowded else 0)
        axis.tick_params(labelbottom=True)  # an axis shared over rows has labels below the last alone
        axis.set(ylim=(0, 1.02))
        n = own["heads"].max()
        patched = NOT_EVALUATED if pd.isna(n) else f"{n:.0f} head{'s' if n != 1 else ''} patched"
        name = titled(group, names[group], 0.9 * PAGE / len(names) if len(names) > 1 else 3)
        axis.set_title(f"{name}\n{patched}" if i == 0 else patched)
        if j == 0:
            axis.set_ylabel(f"circuit of {short(circuits[i])}\naccuracy")
    legend_below(figure, "chance", of_bars=look)
    return figure


def functions_caption(whose: str, table: pd.DataFrame, boxes: int, seed: int) -> str:
    """whose: which figure, and whose heads are patched."""
    return (
        f"{whose}, group by group, patched from the alternate run, in every model. Height: share of rows whose answer"
        f" becomes the target of the desideratum; bars: 95 % interval over resampled scenes, n = {most(table['n'])}"
        f" rows in {most(table['sets'])} fresh sets. Dashed: an answer drawn from the prompt's objects, 1/{boxes},"
        f" which is chance for position. A group carries what its high bars name. Seed {seed}."
    )
