"""The edit PathPatch (paper, section 4.1), the sender's output from the source and every other head frozen.

1. With all heads frozen positions do not talk: one token through the MLPs alone, from the sender's layer up. Senders of
   all layers join one batch as the layers are walked once.
2. Where a receiver's layer is reached, its ``via`` vectors are read from that batch and put into a second one, in which
   nothing is frozen: the cone of that change. A sender joins it at the lowest receiver above it.

A head in or above the highest receiver's layer cannot reach it: it stays the base run, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mechdiff.circuits import Head
from mechdiff.engine.capture import Wanted, capture
from mechdiff.engine.chunk import Chunk, Layout, suffixes
from mechdiff.engine.cone import Cone, join
from mechdiff.engine.edits import Part, PathPatch
from mechdiff.engine.examples import Examples
from mechdiff.engine.rows import BASE
from mechdiff.models.patchable import PatchableModel, Placed


class Paths:
    """Path patches of many senders at one position, into the same receivers."""

    learned = False

    def __init__(self, model: PatchableModel, edits: Sequence[PathPatch]) -> None:
        self.model = model
        self.senders = [edit.sender for edit in edits]
        self.position, self.receivers, self.via = edits[0].position, edits[0].receivers, edits[0].via
        self.named = [self.position]
        into = [len(model.layers)] if self.receivers is None else [head.layer for head in self.receivers]
        self.lowest, self.highest = min(into, default=0), max(into, default=0)
        self.does = [head.layer for head in self.senders]  # from which layer up it does something

    def layouts(self, examples: Examples) -> Iterator[Layout]:
        return suffixes(examples, self.named)

    def wanted(self, layout: Layout | Chunk) -> Wanted:
        read = layout.live[:, :1]
        if self.receivers is None:
            return Wanted(read=read, entering=True)
        return Wanted(live=layout.live, context=True, first=self.lowest, read=read, entering=True)

    def source_bytes(self, prompt: int) -> int:
        return Wanted(read=torch.zeros(1, 1), until=self.highest).bytes(self.model, prompt)

    def open(self, chunk: Chunk) -> OpenPaths:
        return OpenPaths(self, chunk)


class OpenPaths:
    """The path patches over the captured base run of some examples."""

    def __init__(self, paths: Paths, chunk: Chunk) -> None:
        self.paths = paths
        self.base = capture(chunk.model, chunk.input_ids, paths.wanted(chunk))
        source = chunk.from_source(paths.named, Wanted(until=paths.highest)).parts[Part.OUTPUT]
        self.source = [z[:, 0] for z in source]
        self.slot = chunk.slots[paths.position]
        at = chunk.positions[paths.position][:, None].to(chunk.model.device)
        self.placed = chunk.model.placed(at)
        self.cone = None if paths.receivers is None else Cone(chunk.model, self.base, chunk.live)

    def streams(self, edits: Sequence[int]) -> tuple[Tensor | None, Sequence[int]]:
        """The final token's stream [n, R, D] of these edits' rows; for each edit its row plus 1 (0: the base run)."""
        paths = self.paths
        reaching = [e for e in edits if paths.senders[e].layer < paths.highest]  # in the order of the layers
        if paths.receivers is None and self.slot != -1:
            reaching = []  # with every head frozen nothing reaches the final token from another
        place = {e: row for row, e in enumerate(reaching, start=1)}
        if not reaching:
            return None, [BASE] * len(edits)
        senders = [paths.senders[e] for e in reaching]
        entering, clean = ([x[:, 0] for x in kept] for kept in (self.base.entering, self.base.parts[Part.OUTPUT]))
        frozen = Frozen(paths.model, self.placed, entering, clean, self.source)
        if paths.receivers is None:
            stream = into_logits(frozen, senders)
        else:
            stream = into_receivers(frozen, self.cone, self.slot, senders, paths.receivers, paths.via)
        return stream, [place.get(e, BASE) for e in edits]


class Frozen:
    """One token of every sender so far, the heads of all layers frozen: stream [n, R, D] entering the next layer."""

    def __init__(
        self,
        model: PatchableModel,
        placed: Placed,
        streams: Sequence[Tensor],
        clean: Sequence[Tensor],
        source: Sequence[Tensor],
    ):
        """At the senders' token, for each layer: streams [n, D] entering it, clean and source outputs [n, H, d]."""
        self.model, self.placed, self.streams, self.clean, self.source = model, placed, streams, clean, source
        self.stream: Tensor | None = None

    def climb(self, layer: int, senders: Sequence[Head]) -> None:
        """Take the batch through a layer, in which these senders join it."""
        if self.stream is None and not senders:
            return
        z = self.clean[layer][:, None].repeat(1, 1 + len(senders), 1, 1)
        if senders:
            which = [head.index for head in senders]
            z[:, list(range(1, 1 + len(senders))), which] = self.source[layer][:, which].to(z)
        attention = self.model.output_of(layer, z)  # [n, 1 + senders, D], the first with nothing patched
        below = 0 if self.stream is None else self.stream.shape[1]
        rows = [self.streams[layer][:, None].expand(-1, len(senders), -1)]
        if self.stream is not None:
            rows.insert(0, self.stream)
        attention = torch.cat([attention[:, :1].expand(-1, below, -1), attention[:, 1:]], 1)
        told = self.placed.at(layer)  # for attention, which is not run
        self.stream = self.model.run_layer_after_attention(layer, torch.cat(rows, 1), told, attention)


def into_logits(frozen: Frozen, senders: Sequence[Head]) -> Tensor:
    """The final token's stream [n, R, D] after the last layer, for senders in the order of the layers."""
    for layer in range(len(frozen.model.layers)):
        frozen.climb(layer, [head for head in senders if head.layer == layer])
    return frozen.stream


def into_receivers(
    frozen: Frozen, cone: Cone, slot: int, senders: Sequence[Head], receivers: Sequence[Head], via: Part
) -> Tensor:
    """The same for receivers whose ``via`` vectors change at one live token; slot: counted from the final one."""
    model = cone.model
    slots: dict[int, list[int]] = {}
    for head in receivers:
        slots.setdefault(head.layer, []).append(model.slot(head, via))
    highest = max(slots)
    stream = None
    for layer in range(len(model.layers)):
        received = None
        if layer in slots and frozen.stream is not None:
            received = cone.vectors(layer, frozen.stream[:, :, None], slice(slot, slot + 1 or None))["qkv".index(via)]
            below = 0 if stream is None else stream.shape[1]
            joining = frozen.stream.shape[1] - below
            stream = join(stream, cone.base.stream[layer], (*range(1, below + 1), *[0] * joining))

        def replace(layer: int, q: Tensor, k: Tensor, v: Tensor, received=received) -> tuple[Tensor, Tensor, Tensor]:
            x = {Part.QUERY: q, Part.KEY: k, Part.VALUE: v}[via]
            if received is not None and slot >= -x.shape[3]:
                x[:, slots[layer], :, slot] = received[:, slots[layer], :, 0]
            return q, k, v

        if stream is not None:
            stream = cone.step(layer, stream, replace)
        if layer < highest:
            frozen.climb(layer, [head for head in senders if head.layer == layer])
    return stream[:, :, -1]
