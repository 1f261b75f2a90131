"""95 % intervals that resample scenes.

Rows of one scene are not independent, so a resample draws whole scenes with replacement (the bootstrap of Efron, 1979)
and every statistic of the resample is computed from the same scenes. The interval is the middle 95 % of what it gives.

Where all scenes agree, all right or all wrong, every resample is the same and says nothing; the other end is then the
exact binomial bound of as many scenes, 0.025^(1/S) (Clopper and Pearson, 1934).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pandas as pd

from mechdiff.common.seeds import stream

LOW, HIGH = 0.025, 0.975
Interval = tuple[float, float]


@cache
def _weights(scenes: int, draws: int, seed: int) -> np.ndarray:
    """How often each scene is drawn, [draws, scenes]; the same for all conditions, so that they stay paired."""
    counts = stream(seed, "intervals", scenes).multinomial(scenes, np.full(scenes, 1 / scenes), size=draws)
    return counts.astype(np.float64)


def scene_resamples(correct: pd.DataFrame, draws: int, seed: int) -> pd.DataFrame:
    """Accuracy of each condition in each resample.

    correct: one row per example, indexed by scene_id, one column per condition, values 0 to 1.
    Returns one row per resample, with the same columns.
    """
    sums = correct.groupby(level=0).sum()
    rows_of = correct.groupby(level=0).size().to_numpy(np.float64)
    weights = _weights(len(sums), draws, seed)
    return pd.DataFrame(weights @ sums.to_numpy(np.float64) / (weights @ rows_of)[:, None], columns=correct.columns)


def interval(resamples: pd.DataFrame, statistic: Callable[[pd.DataFrame], pd.Series]) -> Interval:
    """The 95 % percentile interval of a statistic over resamples; resamples where it is undefined are passed over."""
    values = statistic(resamples).replace([np.inf, -np.inf], np.nan).dropna()
    return (float(values.quantile(LOW)), float(values.quantile(HIGH))) if len(values) else (np.nan, np.nan)


def accuracy_interval(correct: pd.Series, resamples: pd.Series) -> Interval:
    """The interval of one condition's accuracy; correct: values indexed by scene_id."""
    low, high = float(resamples.quantile(LOW)), float(resamples.quantile(HIGH))
    bound = LOW ** (1 / correct.index.nunique())
    if correct.eq(1).all():
        low = bound
    if correct.eq(0).all():
        high = 1 - bound
    return low, high


def accuracies(rows: pd.DataFrame, by: Sequence[str], draws: int, seed: int) -> pd.DataFrame:
    """One row per condition: the columns of ``by``, n, n_correct, accuracy and its interval, low and high.

    rows: one row per example and condition, with scene_id and correct.
    """
    found = []
    for condition, some in rows.groupby(list(by), sort=False, dropna=False):
        correct = some.set_index("scene_id")["correct"].astype(float).rename("accuracy")
        low, high = accuracy_interval(correct, scene_resamples(correct.to_frame(), draws, seed)["accuracy"])
        found.append((*condition, len(some), correct.sum(), correct.mean(), low, high))
    return pd.DataFrame(found, columns=[*by, "n", "n_correct", "accuracy", "low", "high"])


def difference(a: pd.Series, b: pd.Series, draws: int, seed: int) -> tuple[float, float, float]:
    """Mean of a - b and its interval; values of the same examples in the same order, indexed by scene_id."""
    gain = (a.astype(float) - b.astype(float)).rename("gain")
    low, high = interval(scene_resamples(gain.to_frame(), draws, seed), lambda d: d["gain"])
    if gain.eq(0).all():  # no scene differs: as many could still do as an exact bound allows
        high = 1 - LOW ** (1 / gain.index.nunique())
        low = -high
    return gain.mean(), low, high
