"""A split of the dataset as tensors. Axes: N examples, T tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mechdiff.heads import Position


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
    positions = {p: _column(table, p.column) for p in Position if not table[p.column].isna().any()}
    answers = None if table["answer_id"].isna().any() else _column(table, "answer_id")
    return Examples(_ids(table, "input_ids"), answers, positions)


def noise_examples(table: pd.DataFrame) -> Examples:
    """The noise prompts of the discovery split, with the positions they are read at."""
    positions = {p: _column(table, f"noise_{p.column}") for p in Position if f"noise_{p.column}" in table}
    return Examples(_ids(table, "noise_input_ids"), None, positions)


def _ids(table: pd.DataFrame, column: str) -> Tensor:
    return torch.from_numpy(np.stack(table[column].to_list()).astype(np.int64))


def _column(table: pd.DataFrame, column: str) -> Tensor:
    return torch.from_numpy(table[column].to_numpy(dtype=np.int64, copy=True))
