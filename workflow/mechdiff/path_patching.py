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
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from mechdiff.examples import Examples
from mechdiff.heads import Circuit, Group, Head, Position
from mechdiff.models import PatchableModel
from mechdiff.reference import (
    answer_log_probability,
    capture_outputs,
    editing_outputs,
    editing_projections,
    last_logits,
)


@dataclass(frozen=True)
class Step:
    """What one step of a discovery plan brings into the circuit.

    keep: how many heads, after those that ``exclude``d groups keep are passed over.
    """

    group: str
    position: Position
    keep: int
    exclude: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, entry: Mapping) -> Step:
        """A step from one entry of the config's plan."""
        return cls(entry["group"], Position(entry["position"]), entry["keep"], tuple(entry["exclude"]))


def relative_changes(
    model: PatchableModel,
    examples: Examples,
    noise: Examples,
    position: Position,
    receivers: Sequence[Head] | None,
    via: str | None,
    batch_size: int,
    done: Callable[[Head, int], None] = lambda head, rows: None,
) -> dict[Head, Tensor]:
    """(p_patch - p_org) / p_org per sender head [N], float64; receivers None means the logits.

    ``done(head, rows)`` is called after each sender and batch.
    """
    highest = max((head.layer for head in receivers), default=0) if receivers is not None else len(model.layers)
    parts: dict[Head, list[Tensor]] = {head: [] for head in model.heads}
    for batch, noise_batch in zip(examples.batches(batch_size), noise.batches(batch_size), strict=True):
        clean, clean_logits = capture_outputs(model, batch.input_ids)
        noise_outputs, _ = capture_outputs(model, noise_batch.input_ids)
        original = answer_log_probability(clean_logits, batch.answers)
        for head in model.heads:
            change = torch.zeros_like(original)
            if head.layer < highest:
                source = noise_outputs[head.layer][_rows(batch), noise_batch.positions[position], head.index]
                logits = _path_patch(model, batch, clean, head, batch.positions[position], source, receivers, via)
                change = torch.expm1(answer_log_probability(logits, batch.answers) - original)
            parts[head].append(change)
            done(head, len(batch))
    return {head: torch.cat(changes) for head, changes in parts.items()}


def _path_patch(
    model: PatchableModel,
    batch: Examples,
    clean: Sequence[Tensor],
    sender: Head,
    at: Tensor,
    source: Tensor,
    receivers: Sequence[Head] | None,
    via: str | None,
) -> Tensor:
    """Logits of the patched run [N, V]. clean: outputs per layer; at: p [N]; source: the noise output [N, D]."""
    rows = _rows(batch)

    def freeze(layer: int, z: Tensor) -> Tensor:
        if layer != sender.layer:
            return clean[layer]
        frozen = clean[layer].clone()
        frozen[rows, at, sender.index] = source
        return frozen

    if receivers is None:
        with editing_outputs(model, freeze):
            return last_logits(model, batch.input_ids)

    received: dict[int, Tensor] = {}

    def read(layer: int, vectors: Tensor) -> Tensor:
        received[layer] = vectors[rows, at]
        return vectors

    with editing_outputs(model, freeze), editing_projections(model, via, read):
        last_logits(model, batch.input_ids)

    def replace(layer: int, vectors: Tensor) -> Tensor:
        slots = [model.slot(head, via) for head in receivers if head.layer == layer]
        if slots:
            vectors = vectors.clone()
            vectors[rows[:, None], at[:, None], slots] = received[layer][:, slots]
        return vectors

    with editing_projections(model, via, replace):
        return last_logits(model, batch.input_ids)


def _rows(batch: Examples) -> Tensor:
    return torch.arange(len(batch))


def score_table(model_name: str, group: str, changes: Mapping[Head, Tensor]) -> pd.DataFrame:
    """One row per sender head: model, group, layer, head, score (mean), stderr (of the mean), n (examples)."""
    rows = [
        {
            "model": model_name,
            "group": group,
            "layer": head.layer,
            "head": head.index,
            "score": change.mean().item(),
            "stderr": (change.std() / len(change) ** 0.5).item(),
            "n": len(change),
        }
        for head, change in changes.items()
    ]
    return pd.DataFrame(rows)


def ranked(scores: pd.DataFrame) -> list[Head]:
    """Heads from the most negative score to the most positive; equal scores in the order of the model."""
    order = scores.sort_values(["score", "layer", "head"], kind="stable")
    return [Head(layer, head) for layer, head in zip(order["layer"], order["head"], strict=True)]


def receiver_heads(scores: pd.DataFrame, k: int) -> list[Head]:
    """The k best heads of a group, through which the next group is looked for."""
    return ranked(scores)[:k]


def select_candidates(plan: Sequence[Step], scores: Mapping[str, pd.DataFrame]) -> Circuit:
    """The circuit before pruning: each group's ``keep`` best heads, those of ``exclude``d groups passed over."""
    kept: dict[str, tuple[Head, ...]] = {}

    def keep(step: Step) -> tuple[Head, ...]:
        if step.group not in kept:
            elsewhere = {head for other in plan if other.group in step.exclude for head in keep(other)}
            own = [head for head in ranked(scores[step.group]) if head not in elsewhere]
            kept[step.group] = tuple(own[: step.keep])
        return kept[step.group]

    return Circuit(tuple(Group(step.group, step.position, keep(step)) for step in plan))
