"""The tables a reader sees, each from the run's own numbers.

Parquet and CSV keep exact values; Markdown and LaTeX round when they print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from tabulate import tabulate

from mechdiff.heads import Circuit
from mechdiff.intervals import interval, scene_resamples
from mechdiff.provenance import write_text
from mechdiff.seeds import stream

PLANTED = (
    " These models have a planted mechanism: the table shows that the pipeline finds what is there,"
    " not a fact about language."
)
CONDITIONS = {"model": "full_model", "circuit": "circuit", "random": "random_circuit"}


def table_1(
    evaluations: Mapping[str, pd.DataFrame], fine_tuned_on: Mapping[str, str], resamples: int, seed: int
) -> pd.DataFrame:
    """Table 1: one circuit in every model.

    evaluations: model -> one row per (condition, draw, example) with scene_id and correct; condition is ``model``,
    ``circuit`` or ``random``.

    Returns, per model: n, right answers (n_correct_*, for random circuits the mean over draws), accuracies F(M), F(C)
    and of random circuits, faithfulness F(C)/F(M), each with the ends of its 95 % interval.
    """
    rows = []
    for model, evaluation in evaluations.items():
        by_example = evaluation.groupby(["condition", "scene_id", "example"], sort=True)["correct"].mean()
        correct = (
            by_example.unstack("condition").droplevel("example").rename(columns=CONDITIONS)[[*CONDITIONS.values()]]
        )
        draws = scene_resamples(correct, resamples, stream(seed, "table_1", model))
        row = {"model": model, "fine_tuned_on": fine_tuned_on[model], "n": len(correct)}
        row |= {f"n_correct_{name}": correct[name].sum() for name in CONDITIONS.values()}
        for name in CONDITIONS.values():
            low, high = interval(draws, lambda d, name=name: d[name])
            row |= {name: correct[name].mean(), f"{name}_low": low, f"{name}_high": high}
        right = row["n_correct_full_model"]
        row["faithfulness"] = row["n_correct_circuit"] / right if right else np.nan
        row["faithfulness_low"], row["faithfulness_high"] = interval(draws, lambda d: d["circuit"] / d["full_model"])
        rows.append(row)
    return pd.DataFrame(rows)


def print_table_1(table: pd.DataFrame) -> pd.DataFrame:
    """Table 1 as the paper sets it, two decimals, intervals in brackets."""

    def cell(row: pd.Series, name: str) -> str:
        if pd.isna(row[name]):
            return "–"
        return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"

    columns = {
        "full_model": "Full model",
        "circuit": "Circuit",
        "random_circuit": "Random circuit",
        "faithfulness": "Faithfulness",
    }
    printed = table[["model", "fine_tuned_on"]].rename(columns={"model": "Model", "fine_tuned_on": "Fine-tuned on"})
    for name, title in columns.items():
        printed[title] = [cell(row, name) for _, row in table.iterrows()]
    return printed


def table_heads(
    circuits: Mapping[str, Circuit], candidates: Mapping[str, Circuit], names: Mapping[str, str]
) -> pd.DataFrame:
    """The heads of each circuit per group, strongest first (Tables A2, A3, A7); names: group -> its full name."""
    return pd.DataFrame(
        [
            {
                "circuit": model,
                "group": group.name,
                "name": names[group.name],
                "position": str(group.position),
                "candidates": len(candidates[model][group.name].heads),
                "heads": len(group.heads),
                "enumerated": ", ".join(map(str, group.heads)),
            }
            for model, circuit in circuits.items()
            for group in circuit.groups
        ]
    )


def table_planted(
    planted: Mapping[str, Sequence[Sequence[int]]], found: Mapping[tuple[str, str], Circuit]
) -> pd.DataFrame:
    """Planted against found heads: per circuit, stage and group the sizes, precision and recall.

    planted: group -> [[layer, head], ...]; found: (circuit, stage) -> heads, stage ``candidates`` or ``circuit``.
    """
    rows = []
    for (model, stage), circuit in found.items():
        for group in circuit.groups:
            truth = {tuple(head) for head in planted.get(group.name, ())}
            heads = {(head.layer, head.index) for head in group.heads}
            both = len(truth & heads)
            rows.append(
                {
                    "circuit": model,
                    "stage": stage,
                    "group": group.name,
                    "planted": len(truth),
                    "found": len(heads),
                    "both": both,
                    "precision": both / len(heads) if heads else np.nan,
                    "recall": both / len(truth) if truth else np.nan,
                }
            )
    return pd.DataFrame(rows)


def write_table(exact: pd.DataFrame, printed: pd.DataFrame, caption: str, paths: Mapping[str, str]) -> None:
    """Write one table as CSV and Parquet (exact) and as Markdown and LaTeX (printed); paths: format -> file."""
    write_text(paths["csv"], exact.to_csv(index=False, lineterminator="\n"))
    exact.to_parquet(paths["parquet"], index=False)
    rows = [["" if value is None or value is pd.NA else value for value in row] for row in printed.to_numpy().tolist()]
    titles = [str(column).replace("_", " ") for column in printed.columns]
    form = {"headers": titles, "disable_numparse": True}
    write_text(paths["md"], tabulate(rows, tablefmt="pipe", **form) + f"\n\n{caption}\n")
    tex = tabulate(rows, tablefmt="latex_booktabs", **form)
    write_text(paths["tex"], f"\\begin{{table}}\n\\caption{{{_tex(caption)}}}\n{tex}\n\\end{{table}}\n")


def rounded(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table with some columns as text of two decimals, undefined values as a dash."""
    return table.assign(**{c: ["–" if pd.isna(v) else f"{v:.2f}" for v in table[c]] for c in columns})


def _tex(text: str) -> str:
    for character in "%&_#":
        text = text.replace(character, f"\\{character}")
    return text
