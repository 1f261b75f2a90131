"""Edits that set how much of a head is its own and how much the source's: Replace, Keep and Mix.

A share of 1 is the head's own, 0 the source's. The base run is the clean one, every share 1; for Keep it is the ablated
one, every share 0, in which positions do not talk: there only the named positions are live, and those that come before
any difference between the edits are computed once for all of them.

A head that attends with some of the source's queries, keys or values has its output made anew, at its position alone.

Axes: E edits, L layers, P named positions, H heads, n examples, R rows, S live tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mechdiff.circuits import Position
from mechdiff.engine.attention import seen_from
from mechdiff.engine.capture import Capture, Wanted, capture, capture_ablated
from mechdiff.engine.chunk import Chunk, Layout, named_tokens, suffixes
from mechdiff.engine.cone import Attended, Cone, EditOutputs, walk
from mechdiff.engine.edits import Keep, Mix, Part, Replace
from mechdiff.engine.examples import Examples
from mechdiff.engine.rows import BASE, Rows, branch
from mechdiff.models.patchable import PatchableModel


class Shares:
    """Edits as own shares [E, L, P, H] of each part."""

    def __init__(self, model: PatchableModel, edits: Sequence[Replace | Keep | Mix]) -> None:
        self.model, self.ablated = model, isinstance(edits[0], Keep)
        self.learned = any(isinstance(e, Mix) and e.own.requires_grad for e in edits)
        nodes = [e.position for e in edits if isinstance(e, Mix)]
        nodes += [position for e in edits if not isinstance(e, Mix) for _, position in e.nodes]
        last = self.ablated or not nodes
        self.named = [p for p in Position if p in nodes or (last and p is Position.LAST)]
        self.parts = frozenset().union(*(e.parts if isinstance(e, Replace) else {Part.OUTPUT} for e in edits))
        self.inputs = self.parts - {Part.OUTPUT}
        self.shares = {part: self._shares(edits, part) for part in self.parts}
        self.touched = {part: (own.detach() != 1).any(-1) for part, own in self.shares.items()}  # [E, L, P]
        for e, edit in enumerate(edits):  # a mask has a gradient even where it patches nothing
            if isinstance(edit, Mix) and edit.heads:
                at = (e, [head.layer for head in edit.heads], self.named.index(edit.position))
                self.touched[Part.OUTPUT][at] = True
        # What each edit does, as numbers [E, L, P, ...]. Masks that are learned stay apart, equal or not: each has its
        # own gradient.
        learned = torch.zeros(len(edits), len(model.layers), len(self.named), 1)
        for e, edit in enumerate(edits):
            if isinstance(edit, Mix):
                learned[e, [head.layer for head in edit.heads]] = e + 1
        own = [own.detach() for own in self.shares.values()]
        self.numbers = torch.cat([learned, *own], -1).numpy()
        nothing = np.full_like(self.numbers, not self.ablated)
        nothing[..., 0] = 0
        self.acts = (self.numbers != nothing).any(-1)  # [E, L, P]
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
        shape = (len(edits), len(model.layers), len(self.named), model.heads_per_layer)
        own = torch.full(shape, 0.0 if self.ablated else 1.0)
        at: list[tuple[int, int, int, int]] = []
        for e, edit in enumerate(edits):
            if isinstance(edit, Mix):
                nodes = [(e, head.layer, place[edit.position], head.index) for head in edit.heads]
                own = own.index_put(tuple(torch.tensor(nodes).T), edit.own.float().cpu())
            elif self.ablated or part in edit.parts:
                at += [(e, head.layer, place[position], head.index) for head, position in edit.nodes]
        if at:
            own = own.index_put(tuple(torch.tensor(at).T), torch.tensor(float(self.ablated)))
        return own

    def layouts(self, examples: Examples) -> Iterator[Layout]:
        return (named_tokens if self.ablated else suffixes)(examples, self.named)

    def wanted(self, layout: Layout | Chunk) -> Wanted:
        return Wanted(live=layout.live, context=True, first=self.first)

    @property
    def from_source(self) -> Wanted:
        """What is kept of the source; where it is read comes with the examples."""
        seen = bool(self.parts & {Part.KEY, Part.VALUE})
        acting = np.flatnonzero(self.acts.any((0, 2)))
        until = None if self.ablated else 1 + max(acting, default=-1)  # nothing is read above
        return Wanted(parts=self.parts & {Part.OUTPUT, Part.QUERY}, context=seen, first=self.first, until=until)

    def source_bytes(self, prompt: int) -> int:
        return replace(self.from_source, read=torch.zeros(1, len(self.named))).bytes(self.model, prompt)

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
            self.source = chunk.from_source(shares.named, shares.from_source) if chunk.source else Capture()
        self.places, live = list(range(len(shares.named))), chunk.live
        if shares.ablated and (common := self._common(live.shape[1])):
            slots = [chunk.slots[position] + live.shape[1] for position in shares.named]
            self._settle(model, live, [i for i in self.places if slots[i] < common])
            self.places = [i for i in self.places if slots[i] >= common]
            live, self.base = live[:, common:], _live_only(self.base, slice(common, None))
        self.live, self.cones = live, {}

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
        at = live[:, None, :, None]  # [n, 1, S, 1]

        def keep(layer: int, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            for context, own in ((self.base.keys, k), (self.base.values, v)):
                own = own[:, :, 0]  # [n, K, S, d]
                context[layer] = context[layer].scatter(2, at.to(own.device).expand_as(own), own)
            return q, k, v

        cone = Cone(model, _live_only(self.base, slice(common)), live)
        walk(cone, rows, keep, self._editing(rows, shift))

    def streams(self, edits: Sequence[int]) -> tuple[Tensor | None, Sequence[int]]:
        """The final token's stream [n, R, D] of these edits' rows; for each edit its row plus 1 (0: the base run)."""
        found, final = [], [BASE] * len(edits)
        reaching: dict[int, list[int]] = {}  # leftmost slot that they change -> edits
        for i, edit in enumerate(edits):
            slots = [
                self.slots[self.shares.named[place]] for place in self.places if self.shares.acts[edit][:, place].any()
            ]
            if slots:
                reaching.setdefault(min(slots), []).append(i)
        for slot, some in reaching.items():
            chosen = [edits[i] for i in some]
            rows = self.shares.rows(chosen, self.places)
            before = sum(stream.shape[1] for stream in found)
            for i, row in zip(some, rows.final, strict=True):
                final[i] = before + row
            found.append(walk(self._cone(slot), rows, edit_outputs=self._editing(rows, 0, chosen)))
        return (torch.cat(found, 1) if found else None), final

    def _cone(self, slot: int) -> Cone:
        """Over the live tokens from a slot on."""
        if slot not in self.cones:
            tokens = slice(self.live.shape[1] + slot, None)
            self.cones[slot] = Cone(self.shares.model, _live_only(self.base, tokens), self.live[:, tokens])
        return self.cones[slot]

    def _editing(self, rows: Rows, shift: int, edits: Sequence[int] = (0,)) -> EditOutputs:
        """Outputs of rows, mixed with the source's; shift: of the slots among other live tokens."""
        shares, touched = self.shares.shares, self.shares.touched

        def outputs(layer: int, z: Tensor, attended: Attended) -> Tensor:  # [n, R, Q, H, d]
            owners = [edits[e] for e in rows.layers[layer].edits]
            for place, position in enumerate(self.shares.named):
                slot = self.slots[position] + shift
                if not -z.shape[2] <= slot < 0:
                    continue
                if any(touched[part][owners, layer, place].any() for part in self.shares.inputs):
                    z[:, :, slot] = self._attend(layer, z[:, :, slot], attended, owners, place, slot)
                if Part.OUTPUT in shares and touched[Part.OUTPUT][owners, layer, place].any():
                    own = shares[Part.OUTPUT][owners, layer, place].to(z)  # [R, H]
                    mine = z[:, :, slot].clone()  # a gradient needs it as it was
                    theirs = self.source.parts[Part.OUTPUT][layer][:, None, place].to(z)
                    z[:, :, slot] = torch.lerp(theirs, mine, own[..., None])
            return z

        return outputs

    def _attend(
        self, layer: int, z: Tensor, attended: Attended, owners: Sequence[int], place: int, slot: int
    ) -> Tensor:
        """Outputs [n, R, H, d] at one position, made anew where a head attends with vectors of the source."""
        a, none = attended, torch.zeros(z.shape[1:3], dtype=torch.bool)
        # Which [R, H] attend with whose, decided on the CPU: a GPU would have to be waited for.
        theirs = {part: self.shares.shares[part][owners, layer, place] == 0 for part in self.shares.inputs}
        query, key, value = (theirs.get(part, none) for part in (Part.QUERY, Part.KEY, Part.VALUE))
        q = a.q[:, :, :, slot]  # [n, H, R, d]
        if query.any():
            q = torch.where(
                query.T[..., None].to(q.device), self.source.parts[Part.QUERY][layer][:, place, :, None].to(q), q
            )
        live = a.k.shape[3] + slot + 1  # of them, up to this one
        length = a.context_k.shape[2] + live
        others = tuple(x[layer] for x in (self.source.keys, self.source.values))  # None where none are wanted
        others = tuple(x if x is None else x[:, :, :length].to(z) for x in others)
        own = (a.k[:, :, :, :live], a.v[:, :, :, :live])
        visible = None if a.visible is None else a.visible[:, slot, :length]
        made = seen_from(q, (a.context_k, a.context_v), own, others, (key, value), a.scoring, visible)
        return torch.where((query | key | value)[..., None].to(z.device), made, z)


def _live_only(base: Capture, tokens: slice) -> Capture:
    """The same capture, keys and values shared, with some of its live tokens."""
    return replace(base, stream=[x if x is None else x[:, tokens] for x in base.stream])
