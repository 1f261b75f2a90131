"""Where a circuit looks: the attention of each group's strongest head, from its position (paper, Figure 1).

On one prompt, the first of a run.
"""

from __future__ import annotations

import pandas as pd
from tokenizers import Tokenizer

from mechdiff.circuits import Circuit
from mechdiff.engine.examples import Examples
from mechdiff.models.hooks import attention_weights
from mechdiff.models.patchable import PatchableModel

COLUMNS = ["group", "layer", "head", "token_index", "token", "attention"]


def circuit_attention(
    model: PatchableModel, examples: Examples, circuit: Circuit, tokenizer: Tokenizer
) -> pd.DataFrame:
    """One row per group and token of the first prompt: its text, and the attention there."""
    first = examples.take(slice(1))
    weights, ids = attention_weights(model, first.input_ids), first.input_ids[0].tolist()
    words = [tokenizer.decode([i], skip_special_tokens=False) for i in ids]
    parts = []
    for group in circuit.groups:
        if not group.heads:
            continue
        head, at = group.heads[0], first.positions[group.position][0]
        seen = weights[head.layer][0, head.index, at].float().cpu()
        columns = (group.name, head.layer, head.index, range(len(ids)), words, seen)
        parts.append(pd.DataFrame(dict(zip(COLUMNS, columns, strict=True))))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
