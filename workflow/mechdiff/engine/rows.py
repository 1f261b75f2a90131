"""Rows: what many edits of a run have in common is computed once.

Walking the layers upwards, an edit is the base run until the first layer where it differs from it, and two edits are
one row until the first layer where they differ from each other. So the rows alive in a layer are the different
beginnings of the edits up to that layer: a tree that branches upwards.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

BASE = 0  # parent 0 is the base run; parent i + 1 is row i of the layer below


@dataclass(frozen=True)
class Layer:
    """Rows alive in one layer: the parent of each in the layer below, and an edit that it belongs to."""

    parents: tuple[int, ...]
    edits: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """layers: one a layer of the model; final: each edit's last row plus 1, or BASE if it never differed."""

    layers: tuple[Layer, ...]
    final: tuple[int, ...]

    @property
    def first(self) -> int:
        """The lowest layer with a row; the number of layers when there is none."""
        return next((i for i, layer in enumerate(self.layers) if layer.parents), len(self.layers))

    @property
    def most(self) -> int:
        """Rows of the layer that has most."""
        return max((len(layer.parents) for layer in self.layers), default=0)


def branch(edits: Sequence[Sequence[Hashable]], base: Sequence[Hashable]) -> Rows:
    """Rows for edits that are given as what they do in each layer, over a base run given likewise."""
    place = [BASE] * len(edits)
    layers = []
    for layer, nothing in enumerate(base):
        rows: dict[tuple[int, Hashable], int] = {}
        owners = []
        for i, edit in enumerate(edits):
            if place[i] == BASE and edit[layer] == nothing:
                continue
            key = (place[i], edit[layer])
            if key not in rows:
                rows[key] = len(rows) + 1
                owners.append(i)
            place[i] = rows[key]
        layers.append(Layer(tuple(parent for parent, _ in rows), tuple(owners)))
    return Rows(tuple(layers), tuple(place))
