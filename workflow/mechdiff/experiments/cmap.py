"""Cross-model activation patching: which step did fine-tuning improve? (paper, section 6)

Two models read the same prompt. In the recipient, the outputs of some heads at their group's position are replaced by
the donor's: those of one group, or those of the whole circuit; the functional heads, or all. What the recipient then
gets right, between its own accuracy and the donor's, is what those heads bring along.

The input variant replaces, instead of outputs, the queries, keys or values with which those heads attend: the query at
the group's position, and the keys and values of every token that it sees, as these heads alone see them. With all
three a head gives the donor's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.engine.edits import Node, Part, Replace
from mechdiff.engine.run import Run
from mechdiff.experiments.columns import CIRCUIT, OUTPUT
from mechdiff.experiments.faithfulness import edits_correct, model_correct

INPUTS = ("q", "k", "v", "qk", "qv", "kv", "qkv")
PARTS = {OUTPUT: frozenset({Part.OUTPUT})} | {name: frozenset(map(Part, name)) for name in INPUTS}
COLUMNS = ["heads", "group", "nodes", "part", "example", "correct"]


def patched_nodes(circuit: Circuit) -> dict[str, frozenset[Node]]:
    """What is patched together: each group, and the whole circuit; a group without heads changes nothing."""
    groups = {g.name: frozenset((head, g.position) for head in g.heads) for g in circuit.groups}
    return groups | ({CIRCUIT: circuit.nodes()} if groups else {})


def patches(circuits: Mapping[str, Circuit]) -> dict[tuple[str, str, str], Replace]:
    """(heads, group, part) -> patch. Outputs for every circuit; inputs for the first one alone."""
    first = next(iter(circuits))
    return {
        (heads, group, part): Replace(nodes, parts)
        for part, parts in PARTS.items()
        for heads, circuit in circuits.items()
        if part == OUTPUT or heads == first
        for group, nodes in patched_nodes(circuit).items()
    }


def cmap(
    recipient: Run, donor: Run, circuits: Mapping[str, Circuit], done: Callable[[int], None] = lambda rows: None
) -> pd.DataFrame:
    """One row per patch and example: heads (a key of ``circuits``: functional, all), group, nodes, part, correct.

    The models' own answers are there with heads ``none`` and part ``recipient`` or ``donor``. done(rows): patches times
    examples finished.
    """
    examples, asked = np.arange(len(recipient.examples)), patches(circuits)
    found = [("none", "", 0, who, model_correct(run)) for who, run in (("recipient", recipient), ("donor", donor))]
    right = edits_correct(recipient, list(asked.values()), donor, done)
    found += [(h, g, len(e.nodes), p, each) for ((h, g, p), e), each in zip(asked.items(), right, strict=True)]
    tables = [pd.DataFrame(dict(zip(COLUMNS, (h, g, n, p, examples, r), strict=True))) for h, g, n, p, r in found]
    return pd.concat(tables, ignore_index=True)
