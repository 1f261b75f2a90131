"""A captured run: one pass over whole prompts, keeping only what the edits made to it will read.

Clean: every head attends as it does. Ablated: every head's output at every position is its mean, so positions do not
talk, and a token's stream depends on that token alone.

Axes: n examples, T tokens, S live tokens (those that edits can change), P places where heads are read, H heads, K
key/value heads, D width, d dimensions of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mechdiff.engine.attention import causal
from mechdiff.engine.edits import Part
from mechdiff.models.attention import Scoring
from mechdiff.models.patchable import PatchableModel


@dataclass(frozen=True)
class Wanted:
    """What to keep of a run, each from layer ``first`` up.

    live [n, S]: tokens whose stream is kept. context: whether keys and values of all tokens are.
    read [n, P]: places where ``parts`` of every head are kept, from layer 0 up; entering: and the stream there.
    until: layers to run; all of them unless said.
    """

    live: Tensor | None = None
    context: bool = False
    first: int = 0
    read: Tensor | None = None
    parts: frozenset[Part] = frozenset({Part.OUTPUT})
    entering: bool = False
    until: int | None = None

    def bytes(self, model: PatchableModel, prompt: int) -> int:
        """What one example of ``prompt`` tokens holds when captured."""
        layers = len(model.layers)
        width, head, above = model.width, model.head_dim, layers - self.first
        stream = numbers = 0
        if self.live is not None:
            stream += above * self.live.shape[1]
        if self.context:
            numbers += above * 2 * prompt * model.values_per_layer * head
        if self.read is not None:
            places = (layers if self.until is None else self.until) * self.read.shape[1]
            heads = sum(model.heads_per_layer if p in "output q" else model.values_per_layer for p in self.parts)
            numbers += places * heads * head
            stream += places * self.entering
        return (stream + 1) * width * 4 + numbers * model.weight.itemsize  # the stream is float32


@dataclass
class Capture:
    """What was kept. Lists have one entry a layer, None where nothing was wanted.

    stream: entering the layer at live tokens [n, S, D]; keys, values [n, K, T, d]; at the places that were read, parts
    [n, P, H or K, d] and entering [n, P, D]; last: the final token's stream after all layers [n, D], None when the run
    stopped before.
    """

    stream: list[Tensor | None] = field(default_factory=list)
    keys: list[Tensor | None] = field(default_factory=list)
    values: list[Tensor | None] = field(default_factory=list)
    parts: dict[Part, list[Tensor]] = field(default_factory=dict)
    entering: list[Tensor] = field(default_factory=list)
    last: Tensor | None = None


def at_tokens(x: Tensor, tokens: Tensor) -> Tensor:
    """x [n, T, ...] at tokens [n, S]: [n, S, ...]."""
    return x[torch.arange(len(x), device=x.device)[:, None], tokens.to(x.device)]


def capture(model: PatchableModel, input_ids: Tensor, wanted: Wanted) -> Capture:
    """Run prompts [n, T] with nothing patched and keep what is wanted."""
    kept = Capture(parts={part: [] for part in wanted.parts})
    stream, placed = model.enter(
        input_ids.to(model.device), torch.arange(input_ids.shape[1], device=model.device)[None]
    )
    for layer in range(len(model.layers) if wanted.until is None else wanted.until):
        needed = layer >= wanted.first
        kept.stream.append(at_tokens(stream, wanted.live) if needed and wanted.live is not None else None)
        if wanted.entering:
            kept.entering.append(at_tokens(stream, wanted.read))

        def attend(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring, context=needed and wanted.context) -> Tensor:
            kept.keys.append(k.contiguous() if context else None)
            kept.values.append(v.contiguous() if context else None)
            z = causal(q, k, v, scoring)
            if wanted.read is not None:
                seen = {Part.OUTPUT: z} | {part: x.transpose(1, 2) for part, x in zip("qkv", (q, k, v), strict=True)}
                for part in wanted.parts:
                    kept.parts[part].append(at_tokens(seen[part], wanted.read))
            return z

        stream = model.run_layer(layer, stream, placed.at(layer), attend)
    if wanted.until is None:
        kept.last = stream[:, -1].clone()  # not a view that holds the whole stream
    return kept


def capture_ablated(model: PatchableModel, input_ids: Tensor, wanted: Wanted, means: Tensor) -> Capture:
    """Run prompts [n, T] with every head's output at its mean [L, T, H, d]; streams, keys and values can be wanted.

    A token that stands at the same place in several prompts is one token: nothing else has a part in its stream.
    """
    kept, length, device = Capture(), input_ids.shape[1], model.device
    pairs, which = torch.unique(input_ids * length + torch.arange(length), return_inverse=True)  # [U], [n, T]
    places, live = (pairs % length).to(device), at_tokens(which, wanted.live).to(device)
    which = which.to(device)
    stream, placed = model.enter((pairs // length).to(device)[None], places[None])  # [1, U, D]
    for layer in range(len(model.layers)):
        needed = layer >= wanted.first
        kept.stream.append(stream[0, live.to(stream.device)] if needed else None)

        def attend(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring, layer=layer, needed=needed) -> Tensor:
            kept.keys.append(k[0, :, which.to(k.device)].transpose(0, 1).contiguous() if needed else None)
            kept.values.append(v[0, :, which.to(v.device)].transpose(0, 1).contiguous() if needed else None)
            return means[layer].to(q)[places.to(q.device)][None]

        stream = model.run_layer(layer, stream, placed.at(layer), attend)
    kept.last = stream[0, which[:, -1].to(stream.device)]
    return kept
