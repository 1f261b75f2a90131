"""The circuit over one of the run's own prompts (paper, Figure 1).

Along the bottom the prompt, its named positions in bold. A box is a group of heads above the token where it acts, the
group nearest the output on top. Arrows are the paths of discovery, with the sum of the path-patching scores of the
sender's heads (95 % interval). Thin lines are where the group's strongest head looks, the wider and darker the more.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from mechdiff.circuits import Circuit, Group
from mechdiff.report.figures.style import (
    COLOURS,
    GREY,
    NOT_EVALUATED,
    PAGE,
    SMALL,
    canvas,
    in_house_style,
    looks,
    short,
    spoken,
)

LEFT, RIGHT = 0.1, 1.42  # margins in inches; in the right one stand the names of groups that act at the prompt's end
LEVEL, FIRST_LEVEL = 0.72, 0.85  # inches between two groups, and from the prompt to the lowest
MOST_TOKENS = 54  # that 7 pt text leaves room for; of a longer prompt those least looked at are left out
WHITE = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"}


@in_house_style
def circuit_figure(
    circuit_groups: pd.DataFrame,
    strongest: Mapping[str, pd.DataFrame],
    edges: pd.DataFrame,
    prompt_tokens: Sequence[str],
    answer: str,
) -> Figure:
    """The groups above the prompt.

    circuit_groups: group, name, position, token_index (of the position), heads (how many), strongest (``L3 H0``; where
    discovery found none, why); first the group nearest the output. strongest: group -> token_index, token, attention of
    its strongest head, from the position. edges: sender, receiver (a group or ``logits``), via (q, k, v or nothing),
    strength (summed relative change of the answer's probability), low, high.
    """
    groups = circuit_groups.set_index("group")
    columns = _columns(groups, strongest, len(prompt_tokens))
    pitch = (PAGE - LEFT - RIGHT) / max(len(columns), MOST_TOKENS // 2)
    x_of = {index: LEFT + (i + 0.5) * pitch for i, index in enumerate(columns)}
    labels = _token_labels(groups, prompt_tokens)
    base = 0.1 + 0.06 * max(map(len, labels.values()))
    top = base + FIRST_LEVEL + LEVEL * len(groups)
    figure, axis = canvas(top + 0.25)

    for i, index in enumerate(columns):
        text = "…" if index is None else labels[index]
        weight = "bold" if index in set(groups["token_index"]) else "normal"
        axis.text(LEFT + (i + 0.5) * pitch, base - 0.05, text, rotation=90, ha="center", va="top", weight=weight)
    nodes = {
        group: (x_of[row["token_index"]], top - LEVEL * (i + 1)) for i, (group, row) in enumerate(groups.iterrows())
    }
    nodes["logits"] = (x_of[len(prompt_tokens) - 1], top)
    for group, look in looks(groups.index).items():
        _looks_at(axis, nodes[group], strongest.get(group), x_of, base, look.colour)
    end = max(x for x, _ in nodes.values())
    for sender, own in edges.groupby("sender", sort=False):
        for _, edge in own.iterrows():
            _arrow(axis, nodes, sender, edge["receiver"])
        text = "\n".join(_strength(edge) for _, edge in own.iterrows())
        (x, y), (x2, y2) = nodes[sender], nodes[own["receiver"].iloc[0]]
        if min(x, x2) > end - 0.6:
            axis.text(end + 0.2, y + LEVEL / 2, text, va="center")
        else:
            along = 0.5 if y2 - y < 1.5 * LEVEL else 0.3  # so that a long arrow's words keep clear of a short one's
            place = (x + along * (x2 - x), y + along * (y2 - y))
            axis.text(*place, text, ha="center", va="center", bbox=WHITE, zorder=6)
    for group, look in looks(groups.index).items():
        _box(axis, nodes[group], group, look.colour)
        row, (x, y) = groups.loc[group], nodes[group]
        name = textwrap.fill(short(str(row["name"])), 18)
        number = {0: "no heads", 1: "1 head"}.get(row["heads"], f"{row['heads']} heads")
        heads = f"{number}, e.g. {row['strongest']}" if row["heads"] else row["strongest"] or number
        if x > end - 0.6:
            axis.text(end + 0.2, y, f"{name}\n{heads}", va="center", color="black", linespacing=1.15)
        elif x > LEFT + 1.5:  # room beside it, where no arrow leaves
            axis.text(x - 0.2, y, f"{name}\n{heads}", ha="right", va="center", bbox=WHITE, zorder=6)
        else:
            at = (max(x, LEFT + 0.65), y + 0.14)
            axis.text(*at, f"{name}\n{heads}", ha="center", va="bottom", bbox=WHITE, zorder=6)
    _box(axis, nodes["logits"], answer, "black")
    _legend(axis, top)
    return figure


def circuit_parts(
    circuit: Circuit, names: Mapping[str, str], patterns: pd.DataFrame, shown: pd.Series
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame], list[str]]:
    """What circuit_figure draws, groups, attention and the prompt's tokens; shown: the dataset's row of the prompt."""
    rows = [
        (g.name, names[g.name], g.position, shown[g.position.column], len(g.heads), _first(g)) for g in circuit.groups
    ]
    columns = ["group", "name", "position", "token_index", "heads", "strongest"]
    strongest = dict(iter(patterns.groupby("group", sort=False)))
    tokens = next(iter(strongest.values()))["token"].str.strip().tolist() if strongest else []
    return pd.DataFrame(rows, columns=columns), strongest, tokens


def _first(group: Group) -> str:
    return str(group.heads[0]) if group.heads else group.note.partition(":")[0]


def _columns(groups: pd.DataFrame, strongest: Mapping[str, pd.DataFrame], n: int) -> list[int | None]:
    """The token of each column; None stands for tokens left out because the prompt is too long."""
    weight = np.zeros(n)
    for attention in strongest.values():
        weight[attention["token_index"]] = np.fmax(weight[attention["token_index"]], attention["attention"])
    weight[[*groups["token_index"], n - 1]] = np.inf
    heaviest = np.argsort(-weight, kind="stable")
    for kept in range(n, 0, -1):
        columns: list[int | None] = []
        before = -1
        for index in sorted(heaviest[:kept].tolist()):
            if index > (before + 1):
                columns.append(None)
            columns.append(index)
            before = index
        if len(columns) <= MOST_TOKENS:
            break
    return columns


def _token_labels(groups: pd.DataFrame, tokens: Sequence[str]) -> dict[int, str]:
    """Token index -> text, after the name of the position where it has one."""
    named = dict(zip(groups["token_index"], groups["position"], strict=True))
    return {i: f"{spoken(named[i])}:  {t}" if i in named else t for i, t in enumerate(tokens)}


def _looks_at(
    axis: Axes, node: tuple[float, float], attention: pd.DataFrame | None, x_of: dict, base: float, colour: str
) -> None:
    """Lines from a box to the tokens; attention that would not be seen is not drawn."""
    if attention is None:
        return
    for index, weight in zip(attention["token_index"], attention["attention"], strict=True):
        if index in x_of and weight >= 0.02:
            form = {"linewidth": 0.3 + 2.5 * weight, "alpha": 0.25 + 0.7 * weight, "solid_capstyle": "round"}
            axis.plot([node[0], x_of[index]], [node[1], base], color=colour, zorder=1, **form)


def _arrow(axis: Axes, nodes: dict[str, tuple[float, float]], sender: str, receiver: str) -> None:
    """From box to box; one that passes over a level where it would cross a box makes a bow to the left."""
    start, end = nodes[sender], nodes[receiver]
    bow = end[1] - start[1] > 1.5 * LEVEL and abs(end[0] - start[0]) < 0.5
    form: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 8, "linewidth": 1.1, "color": "black", "zorder": 3}
    style = f"arc3,rad={-0.3 if bow else 0}"
    axis.add_patch(FancyArrowPatch(start, end, connectionstyle=style, shrinkA=8, shrinkB=8, **form))


def _strength(edge: pd.Series) -> str:
    """``Q −42 % [−48, −36]``."""
    if pd.isna(edge["strength"]):
        return f"{edge['via'].upper()} {NOT_EVALUATED}".strip()
    strength, low, high = (f"{100 * edge[c]:+.0f}".replace("-", "−") for c in ("strength", "low", "high"))
    return f"{edge['via'].upper()} {strength} % [{low}, {high}]".strip()


def _box(axis: Axes, node: tuple[float, float], text: str, colour: str) -> None:
    half, (x, y) = 0.05 + 0.035 * len(text), node
    form: dict[str, Any] = {"boxstyle": "round,pad=0.03", "facecolor": "white", "edgecolor": colour, "linewidth": 1.3}
    axis.add_patch(FancyBboxPatch((x - half, y - 0.07), 2 * half, 0.14, zorder=4, **form))
    axis.text(x, y, text, ha="center", va="center_baseline", weight="bold", color="black", zorder=5)


def _legend(axis: Axes, top: float) -> None:
    x, paths = LEFT, "path patching: Q, K or V, summed change of the answer's probability [95 % interval]"
    lines = (("black", 1.1, paths), (COLOURS[0], 2.0, "attention of the group's strongest head"))
    for i, (colour, width, words) in enumerate(lines):
        y = top + 0.05 - 0.17 * i
        if i == 0:
            form: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 7, "linewidth": width, "color": colour}
            axis.add_patch(FancyArrowPatch((x, y), (x + 0.25, y), shrinkA=0, shrinkB=0, **form))
        else:
            axis.plot([x, x + 0.25], [y, y], color=colour, linewidth=width)
        axis.text(x + 0.32, y, words, va="center_baseline", color=GREY, fontsize=SMALL)
