"""Which heads would discovery choose again? Its examples resampled, its receivers as they were.

1. Draw as many scenes as there are, with replacement; a head's score is the mean change over the drawn ones.
2. Choose each group's heads from the resampled scores, as :func:`mechdiff.experiments.ranking.select_candidates` does.
3. chosen = the share of resamples in which a head is among its group's.

A head near the cut is chosen in some and not in others: it is unstable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from mechdiff.circuits import Head
from mechdiff.experiments.ranking import Step


def chosen_shares(
    plan: Sequence[Step],
    changes: Mapping[str, pd.DataFrame],
    scenes: Sequence[int],
    resamples: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """group, layer, head, chosen (share of resamples, 0 to 1) for every head of the model.

    changes: group -> relative changes, one row an example, one column a head in the model's order; scenes: of the rows.
    """
    names, of_row = np.unique(np.asarray(scenes), return_inverse=True)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)  # [B, scenes]
    weights = drawn[:, of_row] / drawn[:, of_row].sum(1, keepdims=True)  # [B, N]
    scores = {step.group: weights @ changes[step.group].to_numpy(np.float64) for step in plan}  # [B, heads]
    kept: dict[str, np.ndarray] = {}

    def keep(step: Step) -> np.ndarray:
        if step.group not in kept:
            own = scores[step.group].copy()
            for other in plan:
                if other.group in step.exclude:
                    own[keep(other)] = np.inf
            best = np.argsort(own, axis=1, kind="stable")[:, : step.keep]
            kept[step.group] = np.zeros(own.shape, bool)
            np.put_along_axis(kept[step.group], best, True, axis=1)
        return kept[step.group]

    rows = []
    for step in plan:
        for name, share in zip(changes[step.group].columns, keep(step).mean(0), strict=True):
            head = Head.parse(name)
            rows.append({"group": step.group, "layer": head.layer, "head": head.index, "chosen": share})
    return pd.DataFrame(rows, columns=["group", "layer", "head", "chosen"])
