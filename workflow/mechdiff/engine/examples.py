"""A split of the dataset, or a part of a desideratum, as tensors. Axes: N examples, T tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mechdiff.circuits import Position


@dataclass(frozen=True)
class Examples:
    """Prompts of equal length with their answers and named positions.

    input_ids [N, T], answers [N], positions: name -> [N], all int64. ``answers`` is None where prompts have none.
    """

    input_ids: Tensor
    answers: Tensor | None
    positions: dict[Position, Tensor]

    def __len__(self) -> int:
        return len(self.input_ids)

    def take(self, rows: Tensor | slice) -> Examples:
        """These examples alone."""
        return Examples(
            self.input_ids[rows],
            None if self.answers is None else self.answers[rows],
            {name: index[rows] for name, index in self.positions.items()},
        )

    def batches(self, size: int) -> Iterator[Examples]:
        """Consecutive slices of at most ``size`` examples."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))


def clean_examples(table: pd.DataFrame) -> Examples:
    """The prompts of a split; a column that has missing values (``means``) is left out."""
    return _examples(table, "", None if table["answer_id"].isna().any() else "answer_id")


def noise_examples(table: pd.DataFrame) -> Examples:
    """The noise prompts of the discovery split, with the positions they are read at."""
    return _examples(table, "noise_")


def alternate_examples(table: pd.DataFrame) -> Examples:
    """The alternate prompts of a desideratum."""
    return _examples(table, "alternate_")


def target_examples(table: pd.DataFrame) -> Examples:
    """The original prompts of a desideratum; their answers are the targets."""
    return _examples(table, "", "target_id")


def _examples(table: pd.DataFrame, prefix: str, answers: str | None = None) -> Examples:
    """The prompts whose columns begin with ``prefix``, with the positions that every row of the table has."""
    columns = {p: f"{prefix}{p.column}" for p in Position}
    positions = {p: _column(table, c) for p, c in columns.items() if c in table and not table[c].isna().any()}
    return Examples(_ids(table, f"{prefix}input_ids"), None if answers is None else _column(table, answers), positions)


def with_scenes(found: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """What was found for numbered examples, with the scene of each."""
    return found.assign(scene_id=table["scene_id"].to_numpy()[found["example"].to_numpy(np.int64)])


def _ids(table: pd.DataFrame, column: str) -> Tensor:
    return torch.from_numpy(np.stack(table[column].to_list()).astype(np.int64))


def _column(table: pd.DataFrame, column: str) -> Tensor:
    return torch.from_numpy(table[column].to_numpy(dtype=np.int64, copy=True))
