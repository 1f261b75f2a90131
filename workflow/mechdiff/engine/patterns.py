"""Where heads look: attention weights of single nodes in a run with nothing patched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mechdiff.engine.attention import causal, in_window
from mechdiff.engine.edits import Node, Part
from mechdiff.engine.run import Run
from mechdiff.models import Scoring


@torch.no_grad()
def attention_patterns(run: Run, nodes: Sequence[Node]) -> dict[Node, Tensor]:
    """Node -> its attention from its position to every token [N, T], 0 to those that come after."""
    model, ids, found = run.model, run.examples.input_ids, {}
    tokens = torch.arange(ids.shape[1], device=model.device)
    stream, placed = model.enter(ids.to(model.device), tokens[None])
    for layer in range(max((head.layer for head, _ in nodes), default=-1) + 1):

        def attend(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring, layer=layer) -> Tensor:
            for node in nodes:
                head, position = node
                if head.layer == layer:
                    at = run.examples.positions[position].to(tokens.device)
                    asked = q[torch.arange(len(q)), head.index, at]  # [N, d]
                    scores = scoring(torch.einsum("nd,ntd->nt", asked, k[:, model.slot(head, Part.KEY)]))
                    ago = at[:, None] - tokens
                    seen = (ago >= 0) & in_window(ago, scoring)
                    found[node] = scores.masked_fill(~seen, -torch.inf).softmax(-1).cpu()
            return causal(q, k, v, scoring)

        stream = model.run_layer(layer, stream, placed.at(layer), attend)
    return found
