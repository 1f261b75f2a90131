"""Is its function the same, and which step got better? (paper, sections 5 and 6, appendices A and J)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mechdiff.experiments.columns import FUNCTIONAL, OUTPUT
from mechdiff.report.intervals import accuracies, difference
from mechdiff.tasks.boxes.desiderata import POSITIONAL


def dcm_table(
    tested: Mapping[str, pd.DataFrame],
    names: Mapping[str, str],
    sizes: Mapping[tuple[str, str], int],
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Per circuit, group and desideratum: heads of the group, those that DCM patches, their accuracy on the test rows.

    tested: circuit_of -> what rule dcm found; sizes: (circuit_of, group) -> heads.
    """
    parts = []
    for circuit_of, table in tested.items():
        by = ["group", "desideratum", "patched", "enumerated", "validation"]
        found = accuracies(table, by, draws, seed)
        found.insert(0, "circuit_of", circuit_of)
        found.insert(2, "name", found["group"].map(names))
        found.insert(4, "heads", [sizes[circuit_of, group] for group in found["group"]])
        parts.append(found)
    return pd.concat(parts, ignore_index=True)


def activation_patching_table(
    found: Mapping[str, pd.DataFrame], names: Mapping[str, str], draws: int, seed: int
) -> pd.DataFrame:
    """Figures 3, A8 and A9: model -> per circuit, group and desideratum the accuracy with respect to the target, over
    all test sets, its interval, and the standard deviation over sets."""
    by, parts = ["circuit_of", "group", "desideratum", "heads"], []
    for model, table in found.items():
        summary = accuracies(table, by, draws, seed)
        per_set = table.groupby([*by, "set"], sort=False)["correct"].mean()
        spread = per_set.groupby(by, sort=False).agg(["std", "size"])
        at = pd.MultiIndex.from_frame(summary[by])
        summary["sd"], summary["sets"] = spread["std"].reindex(at).to_numpy(), spread["size"].reindex(at).to_numpy()
        summary.insert(1, "model", model)
        parts.append(summary)
    table = pd.concat(parts, ignore_index=True)
    table.insert(3, "name", table["group"].map(names))
    models, groups, desiderata = list(found), list(names), ["label", "object", "position"]  # as in the paper's figure
    keys = [
        (models.index(c), models.index(m), groups.index(g), desiderata.index(d))
        for c, m, g, d in table[["circuit_of", "model", "group", "desideratum"]].itertuples(index=False)
    ]
    return table.iloc[sorted(range(len(keys)), key=keys.__getitem__)].reset_index(drop=True)


def positional_table(found: pd.DataFrame, draws: int, seed: int, published: Mapping[str, Any]) -> pd.DataFrame:
    """Table A11: per positional desideratum the accuracy over all test sets, its interval, and how the sets vary.

    The paper's variance column has the size of a standard deviation, so both are here.
    """
    summary = accuracies(found, ["desideratum", "heads"], draws, seed).set_index("desideratum")
    per_set = found.groupby(["desideratum", "set"], sort=False)["correct"].mean().groupby("desideratum", sort=False)
    summary["sd"], summary["variance"], summary["sets"] = per_set.std(), per_set.var(), per_set.size()
    summary = summary.reindex([name for name in POSITIONAL if name in summary.index]).reset_index()
    summary.insert(0, "number", [1 + list(POSITIONAL).index(name) for name in summary["desideratum"]])
    summary.insert(2, "meaning", summary["desideratum"].map(POSITIONAL))
    if published:
        for quantity in ("accuracy", "variance"):
            summary[f"paper_{quantity}"] = [published[name][quantity] for name in summary["desideratum"]]
    return summary


def examples_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Figure 2, Tables A12 and A13: the first row of each desideratum, as the run used it."""
    rows = []
    for name, table in tables.items():
        first = table.iloc[0]
        meaning = POSITIONAL.get(name, name.capitalize())
        rows.append((name, meaning, first["prompt"], first["alternate_prompt"], first["answer"], first["target"]))
    columns = ["desideratum", "meaning", "original", "alternate", "original_answer", "target"]
    return pd.DataFrame(rows, columns=columns)


def cmap_table(found: Mapping[str, pd.DataFrame], names: Mapping[str, str], draws: int, seed: int) -> pd.DataFrame:
    """Figure 4: per fine-tuned model's circuit, direction and patch the accuracy, beside both models' own, and the gain
    over the recipient's own, each with its interval."""
    parts = []
    for circuit_of, table in found.items():
        for (donor, recipient), some in table.groupby(["donor", "recipient"], sort=False):
            alone = {part: t.set_index("scene_id")["correct"] for part, t in some.groupby("part") if part in ALONE}
            patched = some[~some["part"].isin(ALONE)]
            by = ["heads", "group", "nodes", "part"]
            summary = accuracies(patched, by, draws, seed)
            gains = [
                difference(t.set_index("scene_id")["correct"], alone["recipient"], draws, seed)
                for _, t in patched.groupby(by, sort=False)
            ]
            summary[["gain", "gain_low", "gain_high"]] = np.array(gains).reshape(-1, 3)
            summary["donor_accuracy"], summary["recipient_accuracy"] = alone["donor"].mean(), alone["recipient"].mean()
            summary = summary.assign(circuit_of=circuit_of, donor=donor, recipient=recipient)
            parts.append(summary.assign(name=summary["group"].map(names).fillna("Whole circuit"))[CMAP])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=CMAP)


ALONE = ("recipient", "donor")
CMAP = ["circuit_of", "donor", "recipient", "heads", "group", "name", "nodes", "part", "n", "n_correct", "accuracy"]
CMAP += ["low", "high", "gain", "gain_low", "gain_high", "donor_accuracy", "recipient_accuracy"]


def outputs_only(table: pd.DataFrame) -> pd.DataFrame:
    """The patches of the paper's Figure 4: outputs of the functional heads."""
    return table[(table["part"] == OUTPUT) & (table["heads"] == FUNCTIONAL)]


def knockout_table(found: Mapping[str, pd.DataFrame], draws: int, seed: int) -> pd.DataFrame:
    """Figures A1 and A2: per model, edge and start layer (counted from 1, as the paper does) the accuracy and its
    interval, and the untouched model's."""
    parts = []
    for model, table in found.items():
        summary = accuracies(table, ["query", "key", "first_layer"], draws, seed)
        untouched = summary["query"] == ""
        summary["model_accuracy"] = summary.loc[untouched, "accuracy"].max()
        summary = summary[~untouched].assign(first_layer=lambda t: t["first_layer"] + 1)
        summary.insert(0, "model", model)
        parts.append(summary)
    return pd.concat(parts, ignore_index=True)
