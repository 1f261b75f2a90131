"""Where heads look: attention weights of single nodes in a run with nothing patched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mechdiff.engine.attention import causal
from mechdiff.engine.edits import Node, Part
from mechdiff.engine.run import Run


@torch.no_grad()
def attention_patterns(run: Run, nodes: Sequence[Node]) -> dict[Node, Tensor]:
    """Node -> its attention from its position to every token [N, T], 0 to those that come after."""
    model, ids, found = run.model, run.examples.input_ids, {}
    tokens = torch.arange(ids.shape[1], device=model.weight.device)
    rotations, stream = model.rotations(tokens[None]), model.embed(ids.to(tokens.device))
    for layer in range(max((head.layer for head, _ in nodes), default=-1) + 1):

        def attend(q: Tensor, k: Tensor, v: Tensor, scaling: float, layer=layer) -> Tensor:
            for node in nodes:
                head, position = node
                if head.layer == layer:
                    at = run.examples.positions[position].to(tokens.device)
                    asked = q[torch.arange(len(q)), head.index, at]  # [N, d]
                    scores = torch.einsum("nd,ntd->nt", asked, k[:, model.slot(head, Part.KEY)]).float() * scaling
                    found[node] = scores.masked_fill(tokens > at[:, None], -torch.inf).softmax(-1).cpu()
            return causal(q, k, v, scaling)

        stream = model.run_layer(layer, stream, rotations, attend)
    return found
