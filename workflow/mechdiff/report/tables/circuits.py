"""Is the same circuit there? Faithfulness, completeness, heads and overlap (paper, section 4, appendices C to F)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mechdiff.circuits import Circuit, Head
from mechdiff.experiments.columns import RANDOM
from mechdiff.report.intervals import accuracy_interval, difference, interval, scene_resamples
from mechdiff.report.tables.writing import number, with_interval

NO_CIRCUIT = "no circuit: no group has heads"
CONDITIONS = {"model": "full_model", "circuit": "circuit", "random": "random_circuit"}
QUANTITIES = {
    "full_model": "Full model",
    "circuit": "Circuit",
    "random_circuit": "Random circuit",
    "faithfulness": "Faithfulness",
}


def faithfulness_table(
    evaluations: Mapping[tuple[str, str], pd.DataFrame],
    fine_tuned_on: Mapping[str, str],
    reasons: Mapping[str, str | None],
    draws: int,
    seed: int,
    published: Mapping[tuple[str, str], Mapping[str, float]],
) -> pd.DataFrame:
    """Tables 1, A5 and A9: circuits in models, (circuit of, model) -> the rows of rule evaluate_circuit.

    reasons: why a model is not evaluated, None where it is; published: the paper's row, where it has one.

    Returns, per circuit and model: n, right answers (n_correct_*, for random circuits the mean over draws), accuracies
    F(M), F(C) and of random circuits, faithfulness F(C)/F(M), each with the ends of its 95 % interval; and a note.
    """
    rows = []
    for (circuit_of, model), evaluation in evaluations.items():
        by_example = evaluation.groupby(["condition", "scene_id", "example"], sort=True)["correct"].mean()
        correct = by_example.unstack("condition").droplevel("example").rename(columns=CONDITIONS)
        correct = correct.reindex(columns=[*CONDITIONS.values()]).astype(float)
        resampled = scene_resamples(correct, draws, seed)
        row: dict[str, Any] = {"circuit_of": circuit_of, "model": model}
        row |= {"fine_tuned_on": fine_tuned_on[model], "n": len(correct)}
        row |= {f"n_correct_{name}": correct[name].sum(min_count=1) for name in CONDITIONS.values()}
        for name in CONDITIONS.values():
            low, high = (
                (np.nan, np.nan) if correct[name].isna().any() else accuracy_interval(correct[name], resampled[name])
            )
            row |= {name: correct[name].mean(), f"{name}_low": low, f"{name}_high": high}
        right = row["n_correct_full_model"]
        row["faithfulness"] = row["n_correct_circuit"] / right if right else np.nan
        low, high = interval(resampled, lambda d: d["circuit"] / d["full_model"])
        row |= {"faithfulness_low": low, "faithfulness_high": high}
        reason = reasons[model] or reasons[circuit_of]
        row["note"] = f"not evaluated: {reason}" if reason else NO_CIRCUIT if np.isnan(row["circuit"]) else ""
        paper = published.get((circuit_of, model))
        rows.append(row | ({f"paper_{name}": paper[name] for name in QUANTITIES} if paper else {}))
    return pd.DataFrame(rows)


def print_faithfulness(table: pd.DataFrame, with_circuit: bool) -> pd.DataFrame:
    """As the paper sets it, two decimals, intervals in brackets; with_circuit: whose circuit it is, as a column."""
    names = {"circuit_of": "Circuit of", "model": "Model", "fine_tuned_on": "Fine-tuned on"}
    printed = table[[name for name in names if with_circuit or name != "circuit_of"]].rename(columns=names)
    for name, title in QUANTITIES.items():
        printed[title] = [with_interval(row, name) for _, row in table.iterrows()]
    noted = table["note"] != ""
    printed.loc[noted, QUANTITIES["faithfulness"]] = table.loc[noted, "note"]
    return printed


def completeness_points(found: Mapping[str, pd.DataFrame], draws: int, seed: int) -> pd.DataFrame:
    """One row per circuit and set K: circuit_of, removed, draw, nodes, n, full_model F(M\\K), circuit F(C\\K) and
    incompleteness, each with its interval."""
    rows = []
    for circuit_of, table in found.items():
        for (removed, draw), some in table.groupby(["removed", "draw"], sort=False):
            correct = some.set_index("scene_id")[["full_model", "circuit"]].astype(float)
            resampled = scene_resamples(correct, draws, seed)
            row = {"circuit_of": circuit_of, "removed": removed, "draw": draw}
            row |= {"nodes": some["nodes"].iloc[0], "n": len(some)}
            for name in correct:
                low, high = accuracy_interval(correct[name], resampled[name])
                row |= {name: correct[name].mean(), f"{name}_low": low, f"{name}_high": high}
            gap, low, high = difference(correct["circuit"], correct["full_model"], draws, seed)
            ends = sorted((abs(low), abs(high)))
            row |= {"incompleteness": abs(gap), "incompleteness_low": 0.0 if low <= 0 <= high else ends[0]}
            rows.append(row | {"incompleteness_high": ends[1]})
    return pd.DataFrame(rows, columns=POINTS)


MEASURED = ["full_model", "circuit", "incompleteness"]
POINTS = ["circuit_of", "removed", "draw", "nodes", "n"]
POINTS += [f"{name}{end}" for name in MEASURED for end in ("", "_low", "_high")]


def completeness_table(
    found: Mapping[str, pd.DataFrame],
    points: pd.DataFrame,
    draws: int,
    seed: int,
    published: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Tables A1, A4 and A8: per circuit the mean and standard deviation over random halves, then each whole group.

    found: circuit_of -> what rule completeness found; points: of it; published: circuit_of -> the paper's rows.
    """
    rows = []
    for (circuit_of, removed), some in points.groupby(["circuit_of", "removed"], sort=False):
        row = {"circuit_of": circuit_of, "removed": removed, "sets": len(some), "n": some["n"].iloc[0]}
        ends = {f"{name}{end}": some[f"{name}{end}"].iloc[0] for name in MEASURED for end in ("_low", "_high")}
        if removed == RANDOM:
            ends = _ends_over_sets(found[circuit_of], draws, seed)
        for name in MEASURED:
            row |= {name: some[name].mean(), **{f"{name}{end}": ends[f"{name}{end}"] for end in ("_low", "_high")}}
            row[f"{name}_sd"] = some[name].std() if removed == RANDOM else np.nan
            paper = published.get(circuit_of, {}).get(removed, {}).get(name)
            if paper is not None:
                row |= dict(zip((f"paper_{name}", f"paper_{name}_sd"), np.atleast_1d(paper), strict=False))
        rows.append(row)
    columns = ["circuit_of", "removed", "sets", "n"]
    columns += [f"{name}{end}" for name in MEASURED for end in ("", "_low", "_high", "_sd")]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def _ends_over_sets(table: pd.DataFrame, draws: int, seed: int) -> dict[str, float]:
    """Ends of the intervals of means over the random sets, whose scenes are resampled together."""
    sets = {draw: some.set_index("scene_id") for draw, some in table[table["removed"] == RANDOM].groupby("draw")}
    resampled = {
        name: scene_resamples(pd.DataFrame({d: some[name].astype(float) for d, some in sets.items()}), draws, seed)
        for name in ("full_model", "circuit")
    }
    means = {name: each.mean(axis=1) for name, each in resampled.items()}
    means["incompleteness"] = (resampled["circuit"] - resampled["full_model"]).abs().mean(axis=1)
    ends = {}
    for name, each in means.items():
        ends[f"{name}_low"], ends[f"{name}_high"] = interval(each.to_frame("mean"), lambda d: d["mean"])
    return ends


def print_completeness(table: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """One line a circuit and set; names: group -> its full name."""
    printed = pd.DataFrame({"Circuit of": table["circuit_of"]})
    removed = {RANDOM: "Random half"} | {group: f"{group} {name}" for group, name in names.items()}
    printed["Removed"] = table["removed"].map(removed)
    for name, title in (("full_model", "Full model"), ("circuit", "Circuit"), ("incompleteness", "Incompleteness")):
        cells = [with_interval(row, name) for _, row in table.iterrows()]
        spread = [f" ± {number(sd)} sd" if not pd.isna(sd) else "" for sd in table[f"{name}_sd"]]
        printed[title] = [cell + sd for cell, sd in zip(cells, spread, strict=True)]
    return printed


def heads_table(
    models: Sequence[str],
    circuits: Mapping[str, Circuit],
    candidates: Mapping[str, Circuit],
    functional: Mapping[str, Circuit],
    stability: Mapping[str, pd.DataFrame],
    plan: Sequence[Mapping[str, Any]],
    share: float,
    reasons: Mapping[str, str | None],
    published: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """Tables A2, A3 and A7: the heads of each circuit per group, strongest first.

    A head that resampled discovery chooses less often than ``share`` is unstable, and marked ``?``. Where discovery
    found none, the group's note says why.
    """
    rows = []
    for model in models:
        table = stability[model]
        chosen = {
            (g, Head(layer, head)): c
            for g, layer, head, c in zip(table["group"], table["layer"], table["head"], table["chosen"], strict=True)
        }
        for entry in plan:
            row = {"circuit_of": model, "group": entry["group"], "name": entry["name"], "position": entry["position"]}
            if reasons[model]:
                rows.append(row | {"enumerated": f"not evaluated: {reasons[model]}"})
                continue
            heads = circuits[model][entry["group"]].heads
            unsure = {head for head in heads if chosen[entry["group"], head] < share}
            row |= {
                "candidates": len(candidates[model][entry["group"]].heads),
                "heads": len(heads),
                "function": entry["function"],
                "functional": len(functional[model][entry["group"]].heads) if entry["function"] else None,
                "unstable": len(unsure),
                "enumerated": ", ".join(f"{head}?" if head in unsure else str(head) for head in heads)
                or circuits[model][entry["group"]].note,
            }
            paper = published.get(model, {}).get(entry["group"])
            if paper:
                row |= {"paper_candidates": paper["candidates"], "paper_heads": len(paper["heads"])}
                row["paper_functional"] = paper["functional"]
                row["paper_enumerated"] = ", ".join(map(str, paper["heads"]))
            rows.append(row)
    counts = ("candidates", "heads", "functional", "unstable", "paper_candidates", "paper_heads", "paper_functional")
    table = pd.DataFrame(rows)
    return table.astype({name: "Int64" for name in counts if name in table})


def overlap_table(
    base: str, circuits: Mapping[str, Circuit], names: Mapping[str, str], published: Mapping[str, Mapping[str, Any]]
) -> pd.DataFrame:
    """Tables A6 and A10: each fine-tuned model's circuit against the base's, per group.

    precision: share of the base's heads that the other circuit has too; recall: share of the other's that the base has.
    """
    rows = []
    for other, circuit in circuits.items():
        for group in circuit.groups if other != base and circuits[base].groups else ():
            ours, theirs = set(circuits[base][group.name].heads), set(group.heads)
            both = len(ours & theirs)
            row: dict[str, Any] = {"circuit_of": other, "group": group.name, "name": names[group.name]}
            row |= {"base": len(ours), "own": len(theirs), "intersection": both}
            row["precision"] = both / len(ours) if ours else np.nan
            row["recall"] = both / len(theirs) if theirs else np.nan
            paper = published.get(other, {}).get(group.name)
            rows.append(row | ({f"paper_{name}": paper[name] for name in OVERLAP} if paper else {}))
    columns = ["circuit_of", "group", "name", *OVERLAP]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


OVERLAP = ["base", "own", "intersection", "precision", "recall"]


def unreached(circuits: Mapping[str, Circuit]) -> str:
    """For captions: a sentence for each group of which discovery found no head."""
    noted = [(model, group) for model, circuit in circuits.items() for group in circuit.groups if group.note]
    return "".join(f" In {model} group {group.name} has no heads: {group.note}." for model, group in noted)


def causal_impact_table(base: str, circuits: Mapping[str, Circuit], scores: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Figures A5 and A7: absolute path-patching scores of every head of a fine-tuned model's circuit or the base's, in
    both. scores: model -> the scores of all its groups."""
    indexed = {m: t.set_index(["group", "layer", "head"])["score"].abs() for m, t in scores.items()}
    rows = []
    for other, circuit in circuits.items():
        for group in circuit.groups if other != base and circuits[base].groups else ():
            members = dict.fromkeys([*group.heads, *circuits[base][group.name].heads])
            for head in members:
                at = (group.name, head.layer, head.index)
                row: dict[str, Any] = {"base": base, "other": other, "group": group.name, "head": str(head)}
                row |= {"base_score": indexed[base][at], "other_score": indexed[other][at]}
                row |= {"in_base": head in circuits[base][group.name].heads, "in_other": head in group.heads}
                rows.append(row)
    return pd.DataFrame(
        rows, columns=["base", "other", "group", "head", "base_score", "other_score", "in_base", "in_other"]
    )


def compositions(
    circuit: Circuit,
    plan: Sequence[Mapping[str, Any]],
    changes: Mapping[str, pd.DataFrame],
    scenes: pd.Series,
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Figure 1: the paths of discovery from groups of a circuit that have heads: sender, receiver, via (q, k, v; none:
    the logits) and strength, the sum of the path-patching scores of the sender's heads, with its interval.

    changes: group -> relative changes, one row an example, whose scenes are given, one column a head.
    """
    rows = []
    for entry in plan:
        if not circuit[entry["group"]].heads:
            continue
        total = changes[entry["group"]][[str(head) for head in circuit[entry["group"]].heads]].sum(axis=1)
        total = total.set_axis(scenes).to_frame("strength")
        low, high = interval(scene_resamples(total, draws, seed), lambda d: d["strength"])
        rows.append((entry["group"], entry["receiver"], entry["via"] or "", total["strength"].mean(), low, high))
    return pd.DataFrame(rows, columns=["sender", "receiver", "via", "strength", "low", "high"])


def planted_table(
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
