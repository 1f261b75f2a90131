"""Activation patching: what do a group's functional heads carry, in this model? (paper, sections 5.2 and 5.3)

The functional heads of each group are patched together, their outputs taken from the alternate run; if they carry the
information that a desideratum is about, the answer becomes its target. A group without a function has all its heads
patched. Fresh test rows, in several sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.experiments.dcm import Pairs, patch
from mechdiff.experiments.faithfulness import edits_correct

COLUMNS = ["circuit_of", "group", "heads", "desideratum", "set", "scene_id", "correct"]


def activation_patching(
    functional: Mapping[str, Circuit], pairs: Pairs, rows: pd.DataFrame, done: Callable[[int], None] = lambda rows: None
) -> pd.DataFrame:
    """One row per circuit, group and row of one desideratum: is the answer the target?

    functional: circuit_of -> its functional heads; rows: the desideratum's table; done(rows): patches times rows.
    """
    patched = [(name, group) for name, circuit in functional.items() for group in circuit.groups]
    if not patched:
        return pd.DataFrame(columns=COLUMNS)
    right = edits_correct(pairs.original, [patch(group, group.heads) for _, group in patched], pairs.alternate, done)
    parts = [
        rows[["desideratum", "set", "scene_id"]].assign(
            circuit_of=name, group=group.name, heads=len(group.heads), correct=correct
        )
        for (name, group), correct in zip(patched, right, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)[COLUMNS]
