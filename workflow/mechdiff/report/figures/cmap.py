"""Cross-model activation patching: which step of the mechanism fine-tuning improved (paper, Figure 4).

A panel is a pair: what the heads of the donor do is put in their place in the recipient, on the same prompts. Where a
group lifts the recipient (dashed line) towards the donor (dash-dotted line), the donor's gain comes through that group.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechdiff.experiments.columns import CIRCUIT
from mechdiff.report.figures.style import (
    GREY,
    NOT_EVALUATED,
    SMALL,
    Look,
    bars,
    in_house_style,
    inches,
    key_below,
    looks,
    short,
    wrapped_panels,
)

OF_CIRCUIT = Look("#999999", "", "")
ROOM, OF_TWO, BESIDE, OF_GROUP = 2.9, 1.7, 0.8, 0.5  # inches for a title, a name in one of two lines, beside, below


@in_house_style
def cmap_figure(table: pd.DataFrame) -> Figure:
    """Bars per group, then the full circuit, with 95 % intervals; one panel a pair.

    table: donor, recipient, group (or ``circuit``), name, accuracy, low, high, donor_accuracy, recipient_accuracy.
    """
    names = _names(table)
    look = looks(g for g in names if g != CIRCUIT) | {CIRCUIT: OF_CIRCUIT}
    pairs = list(table.groupby(["donor", "recipient"], sort=False))
    titles = [_title(donor, recipient) for (donor, recipient), _ in pairs]
    ticks = _ticks(names)
    upright = max(inches(line) for tick in ticks for line in tick.split("\n")) * len(names) > 2.2
    figure, axes = wrapped_panels(len(pairs), 2, 1.9 + _more(titles) + 0.3 * upright)
    for axis, title, ((donor, recipient), own) in zip(axes, titles, pairs, strict=True):
        rows = own.set_index("group").reindex(list(names))
        for x, group in enumerate(names):
            bars(axis, [x], rows.loc[[group]], 0.68, look[group])
        first = own.iloc[0]
        levels = {_beside(recipient, "recipient"): (first["recipient_accuracy"], "--")}
        _levels(axis, levels | {_beside(donor, "donor"): (first["donor_accuracy"], "-.")})
        axis.set_xticks(range(len(names)), ticks, rotation=90 if upright else 0)
        axis.set(ylim=(0, 1.02), xlim=(-0.6, len(names) - 0.4), title=title, ylabel="accuracy")
    key_below(figure, _key(table, names, "×"))
    return figure


@in_house_style
def cmap_inputs_figure(table: pd.DataFrame) -> Figure:
    """The same by what is patched: heads' outputs, or their queries, keys, values and all their combinations.

    Each cell prints the recipient's accuracy; its colour says how far that is from the recipient's own.
    table: the columns of cmap_figure, and part (output, q, k, v, qk, qv, kv, qkv).
    """
    names, parts = _names(table), list(table["part"].unique())
    pairs = list(table.groupby(["donor", "recipient"], sort=False))
    alone = [own["recipient_accuracy"].iloc[0] for _, own in pairs]
    titles = [_title(donor, to, f" ({x:.2f} alone)") for ((donor, to), _), x in zip(pairs, alone, strict=True)]
    figure, axes = wrapped_panels(len(pairs), 2, 0.75 + 0.2 * len(names) + _more(titles))
    reach = np.nanmax([0.01, *(table["accuracy"] - table["recipient_accuracy"]).abs()])
    form = {"cmap": "PuOr", "vmin": -reach, "vmax": reach, "edgecolor": "white", "linewidth": 0.6}
    for axis, title, (_, own) in zip(axes, titles, pairs, strict=True):
        values = own.pivot(index="group", columns="part", values="accuracy").reindex(index=list(names), columns=parts)
        gain = values.to_numpy(float) - own["recipient_accuracy"].iloc[0]
        mesh = axis.pcolormesh(np.ma.masked_invalid(gain), **form)
        for (y, x), value in np.ndenumerate(values.to_numpy(float)):
            text = "–" if np.isnan(value) else f"{value:.2f}"
            dark = np.dot(mesh.cmap(mesh.norm(gain[y, x]))[:3], (0.3, 0.6, 0.1)) < 0.45 and not np.isnan(value)
            axis.text(x + 0.5, y + 0.5, text, ha="center", va="center_baseline", color="white" if dark else "black")
        axis.set_xticks(np.arange(len(parts)) + 0.5, parts)
        axis.set_yticks(np.arange(len(names)) + 0.5, _ticks(names))
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_title(title)
        axis.invert_yaxis()
    figure.colorbar(mesh, ax=axes, shrink=0.8, aspect=30, label="change of accuracy")
    key_below(figure, _key(table, names, "–"))
    return figure


def _title(donor: str, recipient: str, more: str = "") -> str:
    """Both models of a panel, on two lines where they have no room on one."""
    title = f"{short(donor)} → {short(recipient)}{more}"
    return title if inches(title) <= ROOM else f"{short(donor, OF_TWO)}\n→ {short(recipient, OF_TWO)}{more}"


def _more(titles: list[str]) -> float:
    """Inches that the second line of a title adds to the height of a panel."""
    return 0.13 if any("\n" in title for title in titles) else 0


def _beside(model: str, role: str) -> str:
    """What a model is called beside a panel; the title says which model is the donor."""
    return model if inches(model) <= BESIDE else role


def _names(table: pd.DataFrame) -> dict[str, str]:
    """Group -> name, the full circuit last."""
    names = dict(zip(table["group"], table["name"], strict=True))
    return {g: n for g, n in names.items() if g != CIRCUIT} | {g: n for g, n in names.items() if g == CIRCUIT}


def _key(table: pd.DataFrame, names: dict[str, str], gap: str) -> dict[str, str]:
    """What the groups' letters stand for, and the sign of a gap if there is one."""
    missing = {gap: NOT_EVALUATED} if table["accuracy"].isna().any() else {}
    return {group: name for group, name in names.items() if group != CIRCUIT} | missing


def _ticks(names: dict[str, str]) -> list[str]:
    return ["full\ncircuit" if group == CIRCUIT else short(group, OF_GROUP) for group in names]


def _levels(axis: Axes, levels: dict[str, tuple[float, str]]) -> None:
    """A horizontal line for each model alone, named beside the panel: the upper one above its line, the lower below."""
    ordered = sorted(levels.items(), key=lambda item: item[1][0])
    for (model, (accuracy, line)), va in zip(ordered, ("top", "bottom"), strict=True):
        if pd.isna(accuracy):
            continue
        axis.axhline(accuracy, color="black", linestyle=line, linewidth=0.9)
        place: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "ha": "left", "va": va}
        axis.text(1.01, accuracy, f"{model}\nalone {accuracy:.2f}", fontsize=SMALL, color=GREY, **place)
