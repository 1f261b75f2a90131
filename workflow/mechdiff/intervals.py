"""95 % intervals that resample scenes.

Rows of one scene are not independent, so a resample draws whole scenes with replacement (the bootstrap of Efron, 1979)
and every statistic of the resample is computed from the same scenes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

LOW, HIGH = 0.025, 0.975


def scene_resamples(correct: pd.DataFrame, draws: int, rng: np.random.Generator) -> pd.DataFrame:
    """Accuracy of each condition in each resample.

    correct: one row per example, indexed by scene_id, one column per condition, values 0 to 1.
    Returns one row per resample, with the same columns.
    """
    sums = correct.groupby(level=0).sum()
    rows_of = correct.groupby(level=0).size().to_numpy()
    scenes = len(sums)
    weights = rng.multinomial(scenes, np.full(scenes, 1 / scenes), size=draws)
    return pd.DataFrame(weights @ sums.to_numpy(float) / (weights @ rows_of)[:, None], columns=correct.columns)


def interval(resamples: pd.DataFrame, statistic: Callable[[pd.DataFrame], pd.Series]) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic over resamples; resamples where it is undefined are passed over."""
    values = statistic(resamples).replace([np.inf, -np.inf], np.nan).dropna()
    return (float(values.quantile(LOW)), float(values.quantile(HIGH))) if len(values) else (np.nan, np.nan)
