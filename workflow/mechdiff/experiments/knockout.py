"""Attention knockout: along which edges does the information flow? (paper, appendix A; Geva et al. 2023)

For each start layer s, no head in a layer >= s attends from one position to another; the accuracy that is left says
what the layers from s up still read there. With s above the last layer nothing is blocked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from mechdiff.circuits import Position
from mechdiff.engine.edits import Block
from mechdiff.engine.run import Run
from mechdiff.experiments.faithfulness import edits_correct, model_correct

EDGES = {  # Figures A1 and A2: query position -> key positions
    Position.LAST: (Position.RANDOM_CONTEXT, Position.QUERY_LABEL, Position.CORRECT_OBJECT),
    Position.QUERY_LABEL: (Position.RANDOM_CONTEXT, Position.PREVIOUS_QUERY_LABEL),
}

COLUMNS = ["query", "key", "first_layer", "example", "correct"]


def attention_knockout(run: Run, done: Callable[[int], None] = lambda rows: None) -> pd.DataFrame:
    """One row per edge, start layer and example: query, key, first_layer (0-based), example, correct.

    The untouched model is there once, with query and key empty and the number of layers as first_layer.
    """
    layers, examples = len(run.model.layers), np.arange(len(run.examples))
    found = [("", "", layers, model_correct(run))]
    for query, keys in EDGES.items():
        for key in keys:
            right = edits_correct(run, [Block(query, key, layer) for layer in range(layers)], None, done)
            found += [(query.value, key.value, layer, each) for layer, each in enumerate(right)]
    parts = [pd.DataFrame(dict(zip(COLUMNS, (q, k, s, examples, right), strict=True))) for q, k, s, right in found]
    return pd.concat(parts, ignore_index=True)
