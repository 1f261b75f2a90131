"""The paper's three claims, each with this run's numbers and a verdict that follows from them by a stated rule.

1. Same circuit: the base circuit, unchanged, does the task in the fine-tuned models (section 4.3).
2. Same function: its groups carry there what they carry in the base (section 5.3).
3. Better positional and value information: where fine-tuning improved the model, the improvement comes along when heads
   that carry position, or value, are patched from the fine-tuned model into the base (section 6).

Of each model: "holds" or "does not hold" only where the 95 % interval leaves no doubt, otherwise "cannot tell". A claim
holds when it holds in every model, and does not when it fails in one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd
from markdown_it import MarkdownIt

from mechdiff.common.text import html_page, markdown
from mechdiff.report.intervals import difference
from mechdiff.report.tables.writing import pipe_table

HOLDS, FAILS, UNSURE = "holds", "does not hold", "cannot tell"
VALUE, POSITION = "object", "position"  # the desiderata that stand for value and positional information


@dataclass(frozen=True)
class Claim:
    """One claim: its title, the rule of its verdict, the numbers behind it (as printed) and the verdict."""

    title: str
    rule: str
    numbers: pd.DataFrame
    verdict: str


def overall(verdicts: Iterable[str]) -> str:
    """Of single verdicts."""
    verdicts = list(verdicts)
    if FAILS in verdicts:
        return FAILS
    return HOLDS if verdicts and all(v == HOLDS for v in verdicts) else UNSURE


def same_circuit(table_1: pd.DataFrame, base: str, least: float) -> Claim:
    """table_1: exact values; least: the faithfulness that is called the same circuit."""
    rows = []
    for _, row in table_1[table_1["model"] != base].iterrows():
        if row["note"]:
            rows.append((row["model"], "–", "–", "–", f"{UNSURE} ({row['note']})"))
            continue
        if row["faithfulness_low"] >= least and row["circuit_low"] > row["random_circuit_high"]:
            verdict = HOLDS
        elif row["faithfulness_high"] < least or row["circuit_high"] < row["random_circuit_low"]:
            verdict = FAILS
        else:
            verdict = UNSURE
        cells = (_with(row, name) for name in ("faithfulness", "circuit", "random_circuit"))
        rows.append((row["model"], *cells, verdict))
    columns = ["Model", "Faithfulness of the base circuit", "Circuit", "Random circuits", "Verdict"]
    rule = (
        f"The base circuit's faithfulness F(C)/F(M) in the fine-tuned model is at least {least:g}, and its accuracy is"
        f" above that of random circuits of its size (n = {table_1['n'].iloc[0]} examples)."
    )
    numbers = pd.DataFrame(rows, columns=columns)
    return Claim("The same circuit", rule, numbers, overall(_plain(numbers)))


def same_function(
    patching: pd.DataFrame,
    base: str,
    functions: Mapping[str, str | None],
    chance: float,
    reasons: Mapping[str, str | None],
) -> Claim:
    """patching: the table of activation patching; functions: group -> desideratum; chance: of a target that is among
    the original's objects, as those of label and position are; reasons: model -> why it was not evaluated."""
    rows = [
        (model, "–", "–", "–", f"{UNSURE} (not evaluated: {reason})") for model, reason in reasons.items() if reason
    ]
    ours = patching[patching["circuit_of"] == base]
    for (model, group), some in ours.groupby(["model", "group"], sort=False):
        if functions[group] is None:
            continue
        own = some[some["desideratum"] == functions[group]].iloc[0]
        other = some[some["desideratum"] != functions[group]].sort_values("accuracy").iloc[-1]
        floor = 0 if functions[group] == VALUE else chance
        if own["heads"] == 0:
            verdict = f"{UNSURE} (no functional heads)"
        elif own["low"] > max(other["high"], floor):
            verdict = HOLDS
        else:
            verdict = FAILS if other["low"] > own["high"] or own["high"] < floor else UNSURE
        names = (f"{row['desideratum']} {_with(row, 'accuracy', 'low', 'high')}" for row in (own, other))
        rows.append((model, f"{group} {own['name']}", *names, verdict))
    columns = ["Model", "Group", "Function in the base", "Next desideratum", "Verdict"]
    rule = (
        "In every model the base circuit's functional heads, patched from the alternate run, turn the answer into the"
        " target of their own desideratum more often than into that of any other, the two intervals do not overlap,"
        f" and, for position and label, more often than chance, {chance:.2f}"
        f" (n = {patching['n'].max() if len(patching) else 0} rows of each)."
    )
    numbers = pd.DataFrame(rows, columns=columns)
    return Claim("The same function", rule, numbers, overall(_plain(numbers)))


def better_information(
    correct: Mapping[str, pd.Series],
    cmap: pd.DataFrame,
    base: str,
    functions: Mapping[str, str | None],
    reasons: Mapping[str, str | None],
    least: float,
    draws: int,
    seed: int,
) -> Claim:
    """correct: model -> whether it is right, indexed by scene_id, on the same examples; cmap: outputs of functional
    heads; functions: group -> desideratum, the group nearest the output first; reasons: model -> why it was not
    evaluated; least: the share of the improvement below which information is called not better."""
    rows, verdicts = [], []
    for model in (name for name in correct if name != base):
        if reason := reasons[model] or reasons[base]:
            rows.append((model, "–", "–", "–", f"{UNSURE} (not evaluated: {reason})"))
            verdicts.append(UNSURE)
            continue
        gain, low, high = difference(correct[model], correct[base], draws, seed)
        improvement = f"{gain:+.2f} [{low:+.2f}, {high:+.2f}]"
        if not low > 0:
            rows.append((model, improvement, "–", "–", "nothing to explain"))
            continue
        some = cmap[(cmap["donor"] == model) & (cmap["recipient"] == base)].set_index("group", drop=False)
        as_it_flows = reversed(list(functions))
        better = [g for g in as_it_flows if g in some.index and some.loc[g, "gain_low"] > 0]
        cell = _gain(some.loc[better[0]]) if better else "none"
        rows.append((model, improvement, "first step that is better", cell, "–"))
        for kind, wanted in (("value", VALUE), ("position", POSITION)):
            patched = some[some["group"].map(functions.get) == wanted]
            if patched["nodes"].sum() == 0:
                rows.append((model, improvement, kind, "no such heads", UNSURE))
                verdicts.append(UNSURE)
                continue
            best = patched.sort_values("gain").iloc[-1]
            verdicts.append(HOLDS if best["gain_low"] > 0 else FAILS if best["gain_high"] < least * gain else UNSURE)
            rows.append((model, improvement, kind, _gain(best), verdicts[-1]))
    columns = ["Model", "Improvement over the base", "Information", "Gain of the base when patched", "Verdict"]
    rule = (
        "Of each fine-tuned model that is better than the base: when the functional heads of a group that carries"
        " value, and of one that carries position, give the fine-tuned model's outputs in the base, the base gets"
        " better: the interval of the best group's gain is above 0. It does not hold where the gain is surely below"
        f" {least:.0%} of the improvement. The first step that is better is the earliest group, as information flows,"
        " with a gain above 0."
    )
    return Claim(
        "Better positional and value information", rule, pd.DataFrame(rows, columns=columns), overall(verdicts)
    )


def page(base: str, run: str, seed: int, claims: Iterable[Claim], remark: str) -> str:
    """The verdict page, as Markdown."""
    claims = list(claims)
    lines = [f"# {markdown(_question(base))}", ""]
    below = markdown(f"In brackets 95 % intervals over resampled scenes.{remark}")
    lines += [f"Run `{run}`, seed {seed}. {below}", ""]
    lines += [f"{i}. {markdown(claim.title)}: **{claim.verdict}**" for i, claim in enumerate(claims, 1)]
    for i, claim in enumerate(claims, 1):
        table = pipe_table(list(claim.numbers), claim.numbers.to_numpy().tolist())
        lines += ["", f"## {i}. {markdown(claim.title)}: {claim.verdict}", ""]
        lines += [f"Rule: {markdown(claim.rule)}", "", table]
    return "\n".join(lines) + "\n"


def web_page(base: str, page: str) -> str:
    """The verdict page for a browser; page: the same as Markdown."""
    return html_page(_question(base), MarkdownIt(options_update={"html": False}).enable("table").render(page))


def _question(base: str) -> str:
    return f"What did fine-tuning change inside {base}?"


def _plain(numbers: pd.DataFrame) -> list[str]:
    return [UNSURE if verdict.startswith(UNSURE) else verdict for verdict in numbers["Verdict"]]


def _gain(row: pd.Series) -> str:
    return f"{row['group']} {row['name']}: {row['gain']:+.2f} [{row['gain_low']:+.2f}, {row['gain_high']:+.2f}]"


def _with(row: pd.Series, name: str, low: str | None = None, high: str | None = None) -> str:
    if pd.isna(row[name]):
        return "–"
    return f"{row[name]:.2f} [{row[low or f'{name}_low']:.2f}, {row[high or f'{name}_high']:.2f}]"
