"""Completeness of a circuit (paper, appendix C).

For a set K of the circuit's nodes, compare what its loss does to the circuit C and to the whole model M:

    incompleteness(K) = |F(C \\ K) - F(M \\ K)|

0: nothing outside the circuit stands in for K. K is a random half of the nodes, several times, and each whole group.

1. F(C \\ K): every head at every position gives its mean output, except the nodes of C that are not in K.
2. F(M \\ K): only the nodes of K give their mean output. Heads and positions outside the circuit stay as they are in
   M \\ K and are ablated in C \\ K: so is the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from mechdiff.circuits import Circuit
from mechdiff.engine.edits import Keep, Node, Replace
from mechdiff.engine.run import Run
from mechdiff.experiments.columns import RANDOM
from mechdiff.experiments.faithfulness import edits_correct

COLUMNS = ["removed", "draw", "nodes", "example", "full_model", "circuit"]


def knocked_out(circuit: Circuit, draws: int, rng: np.random.Generator) -> dict[tuple[str, int], frozenset[Node]]:
    """(what is removed, draw) -> K: random halves of the nodes, halves up, then every group with heads in it."""
    nodes = sorted(circuit.nodes())
    half = (len(nodes) + 1) // 2
    sets = {}
    for draw in range(draws if nodes else 0):
        drawn = rng.choice(len(nodes), half, replace=False)
        sets[RANDOM, draw] = frozenset(nodes[i] for i in drawn)
    for group in circuit.groups:
        if group.heads:
            sets[group.name, 0] = frozenset((head, group.position) for head in group.heads)
    return sets


def completeness(
    run: Run,
    means: Tensor,
    circuit: Circuit,
    sets: Mapping[tuple[str, int], frozenset[Node]],
    done: Callable[[int], None] = lambda rows: None,
) -> pd.DataFrame:
    """One row per set K and example: removed, draw, nodes (of K), example, full_model and circuit (right without K?).

    means [L, T, H, d], see :meth:`Run.mean_outputs`; done(rows): sets times examples finished, twice.
    """
    if not sets:
        return pd.DataFrame(columns=COLUMNS)
    model = edits_correct(run, [Replace(k) for k in sets.values()], means, done)
    kept = edits_correct(run, [Keep(circuit.nodes() - k) for k in sets.values()], means, done)
    examples = np.arange(len(run.examples))
    parts = [
        pd.DataFrame(dict(zip(COLUMNS, (removed, draw, len(k), examples, m, c), strict=True)))
        for ((removed, draw), k), m, c in zip(sets.items(), model, kept, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)
