"""The causal cone of edits: only the layers and tokens that they can change, for many edits of some examples at once.

1. An edit is the base run below its first layer: nothing is computed there (:mod:`mechdiff.engine.rows`).
2. Tokens that no edit reaches keep the base run's keys and values, which all rows of an example share.
3. The other tokens, the live ones, go through the model's own layers, with their edits made as attention is reached.
4. In the last layer nothing but the final token is computed, over the keys and values of the other live ones.

Axes: n examples, R rows, S live tokens, C tokens of the context, H heads, K key/value heads, D width, d dimensions of a
head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mechdiff.engine.attention import folded, in_window
from mechdiff.engine.capture import Capture
from mechdiff.engine.rows import BASE, Rows
from mechdiff.models.attention import Scoring
from mechdiff.models.patchable import PatchableModel

# (layer, queries [n, H, R, Q, d], keys, values [n, K, R, S, d]) -> the same, edited
EditVectors = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
# (layer, heads' outputs [n, R, Q, H, d], what they were made from) -> outputs, edited; Q = S, or 1 in the last layer
EditOutputs = Callable[[int, Tensor, "Attended"], Tensor]


@dataclass(frozen=True)
class Attended:
    """What heads' outputs were made from: queries [n, H, R, Q, d], each row's own keys and values [n, K, R, S, d] and
    those of the context [n, K, C, d]; visible [n, Q, C + S], None: everything."""

    q: Tensor
    k: Tensor
    v: Tensor
    context_k: Tensor
    context_v: Tensor
    scoring: Scoring
    visible: Tensor | None


def same_vectors(layer: int, *x: Tensor) -> tuple[Tensor, ...]:
    """No edit of queries, keys and values."""
    return x


def same_outputs(layer: int, z: Tensor, attended: Attended) -> Tensor:
    """No edit of heads' outputs."""
    return z


class _FoundError(Exception):
    """Carries vectors out of a layer whose rest is not wanted."""


class Cone:
    """Live tokens [n, S], ascending and ending with the final one, over a base run of the same examples.

    blocked: (slot of a query token among the live ones, key tokens [n]) that it does not attend to.
    """

    def __init__(
        self, model: PatchableModel, base: Capture, live: Tensor, blocked: tuple[int, Tensor] | None = None
    ) -> None:
        self.model, self.base = model, base
        tokens = torch.arange(int(live.max()) + 1)
        past = (tokens < live[:, :, None]) & ~(tokens == live[:, :, None]).any(1, keepdim=True)  # [n, S, T]
        own = live[:, None, :] <= live[:, :, None]  # [n, S, S]
        if blocked is not None:
            slot, key = blocked
            past[:, slot] &= tokens != key[:, None]
            own[:, slot] &= live != key[:, None]
        self.context = int((past.any(0).any(0) * (tokens + 1)).max())
        keys = torch.cat([tokens[: self.context].expand(len(live), -1), live], 1)
        self.ago = live[:, :, None] - keys[:, None]  # [n, S, C + S]
        self.visible = torch.cat([past[:, :, : self.context], own], -1)
        self.placed = model.placed((live[:1] if (live == live[0]).all() else live).to(model.device))
        self.seen: dict[int | None, Tensor | None] = {}  # by window

    def visible_in(self, scoring: Scoring, queries: slice, device: torch.device) -> Tensor | None:
        """What some live tokens see in a layer [n, Q, C + S]; None: everything."""
        if scoring.window not in self.seen:
            visible = self.visible & in_window(self.ago, scoring)
            self.seen[scoring.window] = None if visible.all() else visible.to(device)
        seen = self.seen[scoring.window]
        return None if seen is None else seen[:, queries].to(device)

    def step(
        self,
        layer: int,
        stream: Tensor,
        edit_vectors: EditVectors = same_vectors,
        edit_outputs: EditOutputs = same_outputs,
    ) -> Tensor:
        """The stream [n, R, S, D] after one more layer; [n, R, 1, D], the final token, after the last one."""
        rows, live = stream.shape[1:3]
        earlier, queries = None, slice(None)
        if layer == len(self.model.layers) - 1 and live > 1:
            earlier = self.vectors(layer, stream[:, :, :-1], slice(None, -1))
            stream, queries = stream[:, :, -1:], slice(-1, None)

        def attend(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
            q, k, v = (x.unflatten(2, (rows, -1)) for x in (q, k, v))
            if earlier is not None:
                k, v = (torch.cat([x, y], 3) for x, y in zip(earlier[1:], (k, v), strict=True))
            q, k, v = edit_vectors(layer, q, k, v)
            keys, values = (x[layer][:, :, : self.context] for x in (self.base.keys, self.base.values))
            visible = self.visible_in(scoring, queries, q.device)
            z = folded(q, k, v, keys, values, scoring, visible)
            attended = Attended(q, k, v, keys, values, scoring, visible)
            return edit_outputs(layer, z.unflatten(1, (rows, -1)), attended).flatten(1, 2)

        told = self.placed.at(layer, queries, rows)
        return self.model.run_layer(layer, stream.flatten(1, 2), told, attend).unflatten(1, (rows, -1))

    def vectors(self, layer: int, stream: Tensor, tokens: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [n, H, R, Q, d], keys and values [n, K, R, Q, d] of a stream [n, R, Q, D] at some live tokens."""
        rows = stream.shape[1]

        def attend(*found):
            raise _FoundError(*found[:3])

        try:
            self.model.run_layer(layer, stream.flatten(1, 2), self.placed.at(layer, tokens, rows), attend)
        except _FoundError as found:
            return tuple(x.unflatten(2, (rows, -1)) for x in found.args)
        raise RuntimeError(f"layer {layer} does not call its attention function")


def join(stream: Tensor | None, base: Tensor | None, parents: tuple[int, ...]) -> Tensor:
    """Rows [n, R, S, D] entering a layer: each from its parent, a row of the layer below or the base run [n, S, D]."""
    if stream is None:
        return base[:, None].expand(-1, len(parents), -1, -1)
    if parents == tuple(range(1, stream.shape[1] + 1)):
        return stream
    if BASE not in parents:
        return stream[:, [parent - 1 for parent in parents]]
    return torch.cat([base[:, None], stream], 1)[:, list(parents)]


def walk(
    cone: Cone, rows: Rows, edit_vectors: EditVectors = same_vectors, edit_outputs: EditOutputs = same_outputs
) -> Tensor | None:
    """The final token's stream [n, R, D] of every row after the last layer; None without rows."""
    stream = None
    for layer in range(rows.first, len(rows.layers)):
        parents = rows.layers[layer].parents
        stream = cone.step(layer, join(stream, cone.base.stream[layer], parents), edit_vectors, edit_outputs)
    return None if stream is None else stream[:, :, -1]
