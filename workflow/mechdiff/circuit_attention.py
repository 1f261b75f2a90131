"""Where a circuit looks: the attention of each group's strongest head, from its position (paper, Figure 1).

On one prompt, the first of a run.
"""

from __future__ import annotations

import pandas as pd
from tokenizers import Tokenizer

from mechdiff.engine.patterns import attention_patterns
from mechdiff.engine.run import Run
from mechdiff.heads import Circuit

COLUMNS = ["group", "layer", "head", "token_index", "token", "attention"]


def circuit_attention(run: Run, circuit: Circuit, tokenizer: Tokenizer) -> pd.DataFrame:
    """One row per group and token of the first prompt: its text, and the attention there."""
    strongest = {group.name: (group.heads[0], group.position) for group in circuit.groups if group.heads}
    patterns = attention_patterns(run.take(slice(1)), list(strongest.values()))
    ids = run.examples.input_ids[0].tolist()
    words = [tokenizer.decode([i], skip_special_tokens=False) for i in ids]
    parts = []
    for group, node in strongest.items():
        head, weights = node[0], patterns[node]
        columns = (group, head.layer, head.index, range(len(ids)), words, weights[0])
        parts.append(pd.DataFrame(dict(zip(COLUMNS, columns, strict=True))))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
