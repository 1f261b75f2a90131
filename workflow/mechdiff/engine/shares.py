"""Edits that set how much of a head is its own and how much the source's: Replace, Keep and Mix.

A share of 1 is the head's own, 0 the source's. The base run is the clean one, every share 1; for Keep it is the ablated
one, every share 0, in which positions do not talk: there only the named positions are live, and those that come before
any difference between the edits are computed once for all of them.

Axes: E edits, L layers, P named positions, H heads (K for keys and values), n examples, R rows, S live tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mechdiff.engine.capture import Capture, Wanted, capture, capture_ablated
from mechdiff.engine.chunk import Chunk, Layout, named_tokens, suffixes
from mechdiff.engine.cone import Cone, EditOutputs, EditVectors, walk
from mechdiff.engine.edits import Keep, Mix, Part, Replace
from mechdiff.engine.rows import Rows, branch
from mechdiff.examples import Examples
from mechdiff.heads import Position
from mechdiff.models import PatchableModel


class Shares:
    """Edits as own shares [E, L, P, H or K] of each part."""

    def __init__(self, model: PatchableModel, edits: Sequence[Replace | Keep | Mix]) -> None:
        self.model, self.ablated = model, isinstance(edits[0], Keep)
        self.learned = any(isinstance(e, Mix) and e.own.requires_grad for e in edits)
        nodes = [e.position for e in edits if isinstance(e, Mix)]
        nodes += [position for e in edits if not isinstance(e, Mix) for _, position in e.nodes]
        last = self.ablated or not nodes
        self.named = [p for p in Position if p in nodes or (last and p is Position.LAST)]
        self.parts = frozenset().union(*(e.parts if isinstance(e, Replace) else {Part.OUTPUT} for e in edits))
        self.shares = {part: self._shares(edits, part) for part in self.parts}
        self.touched = {part: (own.detach() != 1).any(-1) for part, own in self.shares.items()}  # [E, L, P]
        # What each edit does, as numbers [E, L, P, ...]. Masks that are learned stay apart, equal or not: each has its
        # own gradient.
        learned = torch.zeros(len(edits), len(model.layers), len(self.named), 1)
        for e, edit in enumerate(edits):
            if isinstance(edit, Mix):
                learned[e, [head.layer for head in edit.heads]] = e + 1
        own = [own.detach() for own in self.shares.values()]
        self.numbers = torch.cat([learned, *own], -1).numpy()
        self.shares = {part: own.to(model.weight) for part, own in self.shares.items()}
        self.does = self.actions(range(len(edits)), range(len(self.named)))
        self.first = self.rows(range(len(edits)), range(len(self.named))).first

    def actions(self, edits: Sequence[int], places: Sequence[int]) -> list[list[bytes]]:
        """What edits do in each layer at some named positions."""
        return [[layer.tobytes() for layer in self.numbers[e][:, places]] for e in edits]

    def rows(self, edits: Sequence[int], places: Sequence[int]) -> Rows:
        """Rows of edits, for what they do at some named positions."""
        nothing = np.full_like(self.numbers[0, 0][places], not self.ablated)
        nothing[..., 0] = 0
        return branch(self.actions(edits, places), [nothing.tobytes()] * len(self.model.layers))

    def _shares(self, edits: Sequence[Replace | Keep | Mix], part: Part) -> Tensor:
        model, place = self.model, {position: i for i, position in enumerate(self.named)}
        heads = model.heads_per_layer if part in (Part.OUTPUT, Part.QUERY) else model.values_per_layer
        own = torch.full((len(edits), len(model.layers), len(self.named), heads), 0.0 if self.ablated else 1.0)
        at: list[tuple[int, int, int, int]] = []
        for e, edit in enumerate(edits):
            if isinstance(edit, Mix):
                nodes = [(e, head.layer, place[edit.position], head.index) for head in edit.heads]
                own = own.index_put(tuple(torch.tensor(nodes).T), edit.own.float().cpu())
            elif self.ablated or part in edit.parts:
                at += [(e, head.layer, place[position], model.slot(head, part)) for head, position in edit.nodes]
        if at:
            own = own.index_put(tuple(torch.tensor(at).T), torch.tensor(float(self.ablated)))
        return own

    def layouts(self, examples: Examples) -> Iterator[Layout]:
        return (named_tokens if self.ablated else suffixes)(examples, self.named)

    def wanted(self, layout: Layout) -> Wanted:
        return Wanted(live=layout.live, context=True, first=self.first)

    def source_bytes(self, prompt: int) -> int:
        places = torch.zeros(1, len(self.named))
        return Wanted(read=places, parts=self.parts).bytes(self.model, prompt)

    def open(self, chunk: Chunk) -> OpenShares:
        return OpenShares(self, chunk)


class OpenShares:
    """The edits over the captured base run of some examples."""

    def __init__(self, shares: Shares, chunk: Chunk) -> None:
        self.shares, self.slots, model = shares, chunk.slots, chunk.model
        wanted = Wanted(live=chunk.live, context=True, first=shares.first)
        with torch.no_grad():
            if shares.ablated:
                self.base = capture_ablated(model, chunk.input_ids, wanted, chunk.source.means)
            else:
                self.base = capture(model, chunk.input_ids, wanted)
            self.source = chunk.from_source(shares.named, shares.parts, len(model.layers)) if chunk.source else {}
        self.places, live = list(range(len(shares.named))), chunk.live
        if shares.ablated and (common := self._common(live.shape[1])):
            slots = [chunk.slots[position] + live.shape[1] for position in shares.named]
            self._settle(model, live, [i for i in self.places if slots[i] < common])
            self.places = [i for i in self.places if slots[i] >= common]
            live, self.base = live[:, common:], _live_only(self.base, slice(common, None))
        self.cone = Cone(model, self.base, live)

    def _common(self, live: int) -> int:
        """How many live tokens come before the first at which the edits differ; 0 when they differ nowhere."""
        does = self.shares.numbers
        differ = [self.slots[p] for i, p in enumerate(self.shares.named) if (does[1:, :, i] != does[:1, :, i]).any()]
        return live + min(differ) if differ else 0

    def _settle(self, model: PatchableModel, live: Tensor, places: Sequence[int]) -> None:
        """Compute what all edits do at the first live tokens once; their keys and values go into the context."""
        common = len(places)
        shift, live = live.shape[1] - common, live[:, :common]
        rows = self.shares.rows([0], places)
        at = live.to(model.weight.device)[:, None, :, None]  # [n, 1, S, 1]

        def keep(layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            for context, own in ((self.base.keys, k), (self.base.values, v)):
                own = own[:, :, 0]  # [n, K, S, d]
                context[layer] = context[layer].scatter(2, at.expand_as(own), own)
            return q, k, v

        cone = Cone(model, _live_only(self.base, slice(common)), live)
        walk(cone, rows, keep, self._editing(rows, shift)[1])

    def streams(self, edits: Sequence[int]) -> tuple[Tensor | None, Sequence[int]]:
        """The final token's stream [n, R, D] of these edits' rows; for each edit its row plus 1 (0: the base run)."""
        rows = self.shares.rows(edits, self.places)
        return walk(self.cone, rows, *self._editing(rows, 0, edits)), rows.final

    def _editing(self, rows: Rows, shift: int, edits: Sequence[int] = (0,)) -> tuple[EditVectors, EditOutputs]:
        """Vectors and outputs of rows, mixed with the source's; shift: of the slots among other live tokens."""

        def mixed(part: Part, layer: int, x: Tensor) -> Tensor:  # [n, R, Q, H or K, d]
            if part not in self.shares.parts:
                return x
            owners = [edits[e] for e in rows.layers[layer].edits]
            for place, position in enumerate(self.shares.named):
                slot = self.slots[position] + shift
                if -x.shape[2] <= slot < 0 and self.shares.touched[part][owners, layer, place].any():
                    own = self.shares.shares[part][owners, layer, place]  # [R, H or K]
                    source = self.source[part][layer][:, None, place]
                    mine = x[:, :, slot].clone()  # a gradient needs it as it was
                    x[:, :, slot] = torch.lerp(source, mine, own[None, :, :, None])
            return x

        def vectors(layer: int, *x: Tensor) -> tuple[Tensor, ...]:
            parts = (Part.QUERY, Part.KEY, Part.VALUE)
            for part, each in zip(parts, x, strict=True):
                mixed(part, layer, each.permute(0, 2, 3, 1, 4))  # a view: edited in place
            return x

        return vectors, lambda layer, z: mixed(Part.OUTPUT, layer, z)


def _live_only(base: Capture, tokens: slice) -> Capture:
    """The same capture, keys and values shared, with some of its live tokens."""
    return replace(base, stream=[x if x is None else x[:, tokens] for x in base.stream])
