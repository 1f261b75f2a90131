"""Pruning a circuit by minimality (paper, section 4.2 and appendix B).

For each group G of the circuit C and each head v of G:

1. Rank the other heads v_j of G by F(C\\{v_j}) - F(C\\{v, v_j}), highest first.
2. K = the heads with a positive difference among the first 30 % (of the size of G, to the nearest whole number).
3. score(v) = (F(C\\K) - F(C\\(K+{v}))) / F(C\\(K+{v})). Keep v when score >= threshold.

F counts correct answers; counts are kept exact and only ratios are divided. Where F(C\\(K+{v})) is 0 the score is
undefined: v is kept, and the table says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from math import floor

import pandas as pd

from mechdiff.circuits import Circuit, Group, Head

Evaluate = Callable[[str, list[Circuit]], Mapping[Circuit, int]]
PAIRS = ["group", "head", "other", "n_correct", "n"]
SCORES = [
    "group",
    "layer",
    "head",
    "context",
    "correct_without_context",
    "correct_without_context_and_head",
    "n",
    "score",
]
SCORES += ["kept", "note"]
PairCounts = Mapping[frozenset[Head], int]


def pair_circuits(circuit: Circuit, group: Group) -> dict[frozenset[Head], Circuit]:
    """C without each head, and without each pair of heads, of one group."""
    removed = {frozenset(pair) for pair in combinations_with_replacement(group.heads, 2)}
    return {heads: circuit.without(group.name, heads) for heads in sorted(removed, key=sorted)}


def count_pairs(circuit: Circuit, evaluate: Evaluate, n: int) -> pd.DataFrame:
    """Step 1 for some of the examples: group, head, other, n_correct, n; head = other for one head removed."""
    rows = []
    for group in circuit.groups:
        pairs = pair_circuits(circuit, group)
        counts = evaluate(group.name, list(pairs.values()))
        for heads, without in pairs.items():
            rows.append((group.name, str(min(heads)), str(max(heads)), counts[without], n))
    return pd.DataFrame(rows, columns=PAIRS)


def pair_counts(circuit: Circuit, shards: Sequence[pd.DataFrame]) -> dict[Circuit, int]:
    """Right answers of the circuits that :func:`count_pairs` counted, over all shards; none without shards."""
    counts: dict[Circuit, int] = {}
    for table in shards:
        for group, head, other, n_correct, _ in table.itertuples(index=False):
            without = circuit.without(group, {Head.parse(head), Head.parse(other)})
            counts[without] = counts.get(without, 0) + n_correct
    return counts


def context_size(heads: int, fraction: float) -> int:
    """How many heads of a group are looked at for K; halves up, as the released 8 of 25 and 2 of 5."""
    return floor(round(fraction * heads + 0.5, 9))


def context_set(group: Group, head: Head, correct: PairCounts, fraction: float) -> tuple[Head, ...]:
    """K for one head v. correct: number of right answers with one head or a pair of the group removed from C."""
    others = [other for other in group.heads if other != head]
    gain = {other: correct[frozenset({other})] - correct[frozenset({head, other})] for other in others}
    ranking = sorted(others, key=lambda other: -gain[other])  # stable: ties in the group's own order
    first = ranking[: context_size(len(group.heads), fraction)]
    return tuple(other for other in first if gain[other] > 0)


def minimality_score(without_k: float, without_k_and_head: float) -> float | None:
    """(F(C\\K) - F(C\\(K+{v}))) / F(C\\(K+{v})); None where the denominator is 0."""
    if without_k_and_head == 0:
        return None
    return (without_k - without_k_and_head) / without_k_and_head


def is_kept(score: float | None, threshold: float) -> bool:
    """Whether a head stays in the circuit; an undefined score keeps it."""
    return score is None or score >= threshold


def minimality(
    circuit: Circuit, evaluate: Evaluate, n: int, fraction: float, threshold: float
) -> tuple[pd.DataFrame, pd.DataFrame, Circuit]:
    """Score every head of a circuit and prune it.

    evaluate: group (for progress), circuits -> number of right answers of each circuit, out of n examples.

    Returns
        pairs: group, head, other, n_correct, n: F(C\\{head, other}); head = other for one head removed.
        scores: group, layer, head, context (K), correct_without_context, correct_without_context_and_head, n, score,
            kept, note.
        the pruned circuit, its heads in the order they had.
    """
    score_rows, pruned = [], []
    pairs = count_pairs(circuit, evaluate, n)
    for group in circuit.groups:
        of_group = pairs[pairs["group"] == group.name]
        removed = zip(of_group["head"], of_group["other"], of_group["n_correct"], strict=True)
        correct = {frozenset({Head.parse(head), Head.parse(other)}): count for head, other, count in removed}
        contexts = {head: context_set(group, head, correct, fraction) for head in group.heads}
        tests = {
            head: (circuit.without(group.name, k), circuit.without(group.name, (*k, head)))
            for head, k in contexts.items()
        }
        counts = evaluate(group.name, [c for pair in tests.values() for c in pair])
        kept = []
        for head in group.heads:
            without_k, without_both = (counts[c] for c in tests[head])
            score = minimality_score(without_k, without_both)
            if is_kept(score, threshold):
                kept.append(head)
            score_rows.append(
                {
                    "group": group.name,
                    "layer": head.layer,
                    "head": head.index,
                    "context": ", ".join(map(str, contexts[head])),
                    "correct_without_context": without_k,
                    "correct_without_context_and_head": without_both,
                    "n": n,
                    "score": score,
                    "kept": is_kept(score, threshold),
                    "note": "undefined (0 right without it), kept" if score is None else "",
                }
            )
        pruned.append(replace(group, heads=tuple(kept)))
    scores = pd.DataFrame(score_rows, columns=SCORES).astype({"score": "Float64"})
    return pairs, scores, Circuit(tuple(pruned))
