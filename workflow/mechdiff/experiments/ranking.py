"""Which heads enter the circuit: groups ranked by what path patching found (paper, section 4.1).

Read from tables, so that choosing need not wait for torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from mechdiff.circuits import LOGITS, Circuit, Group, Head, Position, head_count


@dataclass(frozen=True)
class Step:
    """What one step of a discovery plan brings into the circuit.

    keep: how many heads, after those that ``exclude``d groups keep are passed over; note: why there are none to keep.
    """

    group: str
    position: Position
    keep: int
    exclude: tuple[str, ...] = ()
    receiver: str = LOGITS
    note: str = ""

    @classmethod
    def from_config(cls, entry: Mapping, heads: int) -> Step:
        """A step from one entry of the config's plan, for a model with so many heads."""
        keep = head_count(entry["keep"], heads)
        return cls(entry["group"], Position(entry["position"]), keep, tuple(entry["exclude"]), entry["receiver"])


def score_table(model_name: str, group: str, changes: pd.DataFrame) -> pd.DataFrame:
    """One row per sender head: model, group, layer, head, score (mean), stderr (of the mean), n (examples)."""
    heads, n = [Head.parse(name) for name in changes], len(changes)
    columns: dict[str, object] = {"model": model_name, "group": group}
    columns |= {"layer": [h.layer for h in heads], "head": [h.index for h in heads]}
    columns |= {"score": changes.mean().to_numpy(), "stderr": changes.std().to_numpy() / n**0.5 if n else [], "n": n}
    return pd.DataFrame(columns)


def at_rounding(changes: pd.DataFrame, rounding: float) -> bool:
    """Whether rounding alone can give every score of a group: mean changes of at most ``rounding`` / sqrt(examples).

    rounding: the largest relative change that it makes in one example, see ``model_check.rounding``. The largest of
    many is several times the usual one, and errors of different examples are independent: of their mean this is several
    standard deviations.
    """
    return bool((changes.mean().abs() <= _level(changes, rounding)).all())


def _level(changes: pd.DataFrame, rounding: float) -> float:
    return rounding / max(1, len(changes)) ** 0.5


def reaching(plan: Sequence[Step], changes: Mapping[str, pd.DataFrame], rounding: float) -> list[Step]:
    """The plan with no head to keep where nothing reaches the receiver. changes: group -> what was found for it."""
    steps: dict[str, Step] = {}
    for step in plan:
        note = ""
        if step.receiver in steps and steps[step.receiver].note:
            note = f"nothing reaches {step.receiver}: it has no heads"
        elif at_rounding(changes[step.group], rounding):
            receiver = "the logits" if step.receiver == LOGITS else step.receiver
            level = _level(changes[step.group], rounding)
            note = f"nothing reaches {receiver}: all scores are at rounding level (at most {level:.1e})"
        steps[step.group] = replace(step, keep=0, note=note) if note else step
    return list(steps.values())


def ranked(scores: pd.DataFrame) -> list[Head]:
    """Heads from the most negative score to the most positive; equal scores in the order of the model."""
    order = scores.sort_values(["score", "layer", "head"], kind="stable")
    return [Head(layer, head) for layer, head in zip(order["layer"], order["head"], strict=True)]


def receiver_heads(scores: pd.DataFrame, wanted: int | float) -> list[Head]:
    """The best heads of a group, a count or a share of all, through which the next group is looked for."""
    return ranked(scores)[: head_count(wanted, len(scores))]


def select_candidates(plan: Sequence[Step], scores: Mapping[str, pd.DataFrame]) -> Circuit:
    """The circuit before pruning: each group's ``keep`` best heads, those of ``exclude``d groups passed over.

    A group whose receiver nothing reaches (:func:`reaching`) has none, and its note.

    Without scores (the model was not evaluated) a circuit without groups.
    """
    if any(table.empty for table in scores.values()):
        return Circuit(())
    kept: dict[str, tuple[Head, ...]] = {}

    def keep(step: Step) -> tuple[Head, ...]:
        if step.group not in kept:
            elsewhere = {head for other in plan if other.group in step.exclude for head in keep(other)}
            own = [head for head in ranked(scores[step.group]) if head not in elsewhere]
            kept[step.group] = tuple(own[: step.keep])
        return kept[step.group]

    return Circuit(tuple(Group(step.group, step.position, keep(step), step.note) for step in plan))
