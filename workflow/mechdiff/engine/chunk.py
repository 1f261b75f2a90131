"""Examples taken together: those whose live tokens are laid out alike, as many as fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mechdiff.circuits import Position
from mechdiff.engine.capture import Capture, Wanted, capture
from mechdiff.engine.edits import Part
from mechdiff.engine.examples import Examples
from mechdiff.models.patchable import PatchableModel


@dataclass(frozen=True)
class Layout:
    """Live tokens, those that edits can change: their places [m, S] in ``members`` [m] of the examples, ascending and
    ending with the final token, and the slot of each named position among them, counted from the final one, -1."""

    members: Tensor
    live: Tensor
    slots: dict[Position, int]


def suffixes(examples: Examples, named: Sequence[Position]) -> Iterator[Layout]:
    """Live: every token from the first of the named positions on."""
    length = examples.input_ids.shape[1]
    places = torch.stack([examples.positions[p] for p in named], 1)  # [N, P]
    for slots in torch.unique(places - length, dim=0):
        members = (places - length == slots).all(1).nonzero()[:, 0]
        live = torch.arange(length + int(slots.min()), length).expand(len(members), -1)
        yield Layout(members, live, dict(zip(named, slots.tolist(), strict=True)))


def named_tokens(examples: Examples, named: Sequence[Position]) -> Iterator[Layout]:
    """Live: the named positions alone; they are different tokens, and ``last`` among them is the final one."""
    places = torch.stack([examples.positions[p] for p in named], 1)  # [N, P]
    ordered = places.sort(1).values
    if (ordered.diff() == 0).any() or (ordered[:, -1] != examples.input_ids.shape[1] - 1).any():
        raise ValueError("in a mean-ablated run named positions must be different tokens, and the last one the final")
    ranks = places.argsort(1).argsort(1) - len(named)
    for slots in torch.unique(ranks, dim=0):
        members = (ranks == slots).all(1).nonzero()[:, 0]
        yield Layout(members, ordered[members], dict(zip(named, slots.tolist(), strict=True)))


@dataclass(frozen=True)
class Source:
    """Where replacements come from: a model on prompts, or mean outputs [L, T, H, d] that stand for any prompt."""

    model: PatchableModel | None = None
    examples: Examples | None = None
    means: Tensor | None = None


@dataclass(frozen=True)
class Chunk:
    """Examples of a layout, to be run: prompts [n, T], live tokens [n, S] and slots, named positions [n], and the
    source of the same examples."""

    model: PatchableModel
    input_ids: Tensor
    live: Tensor
    slots: dict[Position, int]
    positions: dict[Position, Tensor]
    source: Source | None

    def from_source(self, named: Sequence[Position], wanted: Wanted) -> Capture:
        """The source's run, with the wanted parts of every head at named positions, per layer [n, P, H or K, d]."""
        if self.source.means is not None:
            at = torch.stack([self.positions[p] for p in named], 1).to(self.model.device)
            return Capture(parts={Part.OUTPUT: [means[at] for means in self.source.means[: wanted.until]]})
        model, examples = self.source.model, self.source.examples
        read = torch.stack([examples.positions[p] for p in named], 1)
        return capture(model, examples.input_ids, replace(wanted, read=read))
