"""Circuit discovery by path patching (paper, section 4.1).

Score of a sender head h = mean over examples of (p_patch - p_org) / p_org, p = probability of the correct answer;
the most negative matter most. Groups are found in the order of a plan, each receiving from an earlier one:
by default A (at ``last``, into the logits), B (at ``last``, into the queries of A), C (at ``query_label``, into the
values of B) and D (at ``previous_query_label``, into the values of C).

One path patch of sender h at position p, over the original prompt:

1. Every head's output is frozen to its value in the original run, except h's at p, which comes from the noise run (at
   the noise prompt's own position of that name). MLPs are recomputed. Read the receivers' q, k or v vectors at p; for
   the logits, read the answer's probability and stop.
2. Run again with nothing frozen and only those vectors replaced. Read the answer's probability.

A head in or above the highest receiver's layer cannot reach it: its score is exactly 0 and nothing is run for it.

Nothing reaches a receiver when no head's score is above rounding level (``ranking.at_rounding``). The group then has no
heads, and says so; what would be sent to it has no receivers, so nothing is run for that and nothing reaches it either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from mechdiff.circuits import Head, Position
from mechdiff.engine.edits import Part, PathPatch
from mechdiff.engine.run import Run
from mechdiff.experiments.shards import blocks


def relative_changes(
    run: Run,
    noise: Run,
    position: Position,
    receivers: Sequence[Head] | None,
    via: Part | None,
    some: Sequence[slice] | None = None,
    done: Callable[[int], None] = lambda rows: None,
) -> dict[Head, Tensor]:
    """(p_patch - p_org) / p_org per sender head [N], float64.

    run, noise: one model on the original and on the noise prompts; receivers None: the logits; some: blocks of the
    examples, all of them unless said. ``done(rows)``: senders times examples finished.
    """
    heads, into = run.model.heads, None if receivers is None else tuple(receivers)
    edits, parts = [PathPatch(head, position, into, via) for head in heads], []
    for block in blocks(len(run.examples)) if some is None else some:
        original, patched = run.take(block).evaluate(edits, noise.take(block), done)
        parts.append(torch.expm1(patched.log_probability - original.log_probability))
    return dict(zip(heads, torch.cat(parts, 1), strict=True))


def change_table(changes: Mapping[Head, Tensor]) -> pd.DataFrame:
    """One row per example, one column per head, as it is printed."""
    return pd.DataFrame({str(head): change.numpy() for head, change in changes.items()})
