"""Desiderata-based component masking: which heads of a group carry a piece of information? (paper, section 5.1, app. H)

A mask W has one weight a head of the group, 1 at first. Head output = W · own + (1 - W) · the alternate run's, at the
group's position; W is learned on the (original, alternate, target) rows of one desideratum:

    loss = -logit(target) + λ · Σ (1 - W)

1. Adam on batches of the training rows, W clamped to [0, 1] after each step. Done for every λ.
2. After each step the rounded mask is looked at: heads with W < 0.5 are patched.
3. Of all rounded masks that were met, also the first, which patches nothing, keep the one with the best accuracy on the
   validation rows; on ties the one that patches fewer heads, then the one met first.
4. Its accuracy on the test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from mechdiff.circuits import Circuit, Group, Head
from mechdiff.engine.edits import Mix, Replace
from mechdiff.engine.examples import alternate_examples, target_examples
from mechdiff.engine.run import Run
from mechdiff.experiments.faithfulness import edits_correct
from mechdiff.models.patchable import PatchableModel

CURVE = ["sparsity", "step", "loss", "logit", "patched", "validation"]
TESTED = ["group", "desideratum", "patched", "enumerated", "validation", "scene_id", "correct"]


@dataclass(frozen=True)
class Training:
    """How masks are learned; sparsity: each λ that is tried."""

    sparsity: tuple[float, ...]
    learning_rate: float
    batch_size: int
    epochs: int


@dataclass(frozen=True)
class Pairs:
    """Rows of a desideratum: the original prompts, whose answers are the targets, and the alternate ones."""

    original: Run
    alternate: Run

    @classmethod
    def of(cls, model: PatchableModel, rows: pd.DataFrame, memory: int) -> Pairs:
        """From a desideratum's table."""
        return cls(Run(model, target_examples(rows), memory), Run(model, alternate_examples(rows), memory))

    def __len__(self) -> int:
        return len(self.original.examples)


@dataclass(frozen=True)
class Mask:
    """The heads to patch; their accuracy on the validation rows; whether they make each test row's answer the target
    [N]; and the curve of the training: sparsity, step, loss, logit (of the target), patched (heads), validation
    (accuracy of the rounded mask)."""

    heads: tuple[Head, ...]
    validation: float
    test: np.ndarray
    curve: pd.DataFrame


def patch(group: Group, heads: Sequence[Head]) -> Replace:
    """These heads of a group take their outputs from the alternate run."""
    return Replace(frozenset((head, group.position) for head in heads))


def masks(
    circuit: Circuit,
    parts: Mapping[str, Pairs],
    settings: Training,
    rng: np.random.Generator,
    done: Callable[[int], None] = lambda rows: None,
) -> dict[str, Mask]:
    """Group -> its mask for one desideratum, whose parts are train, validation and test.

    Groups and sparsities are learned at once, from the same runs; their masks do not act together. done(rows): training
    rows finished.
    """
    groups = [group for group in circuit.groups if group.heads]
    if not groups:
        return {}
    train = parts["train"]
    learned = [(group, sparsity, torch.ones(len(group.heads))) for group in groups for sparsity in settings.sparsity]
    optimizer = torch.optim.Adam([own.requires_grad_() for _, _, own in learned], settings.learning_rate)
    met: dict[str, dict[tuple[Head, ...], float]] = {group.name: {(): 0.0} for group in groups}
    curves: dict[str, list[tuple]] = {group.name: [] for group in groups}
    step = 0
    for _ in range(settings.epochs):
        for batch in torch.from_numpy(rng.permutation(len(train))).split(settings.batch_size):
            mixes = [Mix(group.position, group.heads, own) for group, _, own in learned]
            _, mixed = train.original.take(batch).evaluate(mixes, train.alternate.take(batch))
            logits = mixed.logit.mean(1)
            losses = [
                -logit + sparsity * (1 - own).sum() for logit, (_, sparsity, own) in zip(logits, learned, strict=True)
            ]
            optimizer.zero_grad()
            sum(losses).backward()
            optimizer.step()
            step += 1
            for (group, sparsity, own), loss, logit in zip(learned, losses, logits.tolist(), strict=True):
                own.data.clamp_(0, 1)
                heads = tuple(head for head, w in zip(group.heads, own.tolist(), strict=True) if w < 0.5)
                met[group.name][heads] = 0.0
                curves[group.name].append((sparsity, step, loss.item(), logit, len(heads), heads))
            done(len(batch))
    return _best(groups, met, curves, parts["validation"], parts["test"])


def _best(
    groups: Sequence[Group],
    met: Mapping[str, dict[tuple[Head, ...], float]],
    curves: Mapping[str, list[tuple]],
    validation: Pairs,
    test: Pairs,
) -> dict[str, Mask]:
    """Of the rounded masks that each group met, the best on the validation rows; then its test rows."""
    tried = [(group, heads) for group in groups for heads in met[group.name]]
    right = edits_correct(validation.original, [patch(*one) for one in tried], validation.alternate)
    for (group, heads), each in zip(tried, right, strict=True):
        met[group.name][heads] = each.mean().item()
    best = {g: min(met[g.name], key=lambda heads, g=g: (-met[g.name][heads], len(heads))) for g in groups}
    tested = edits_correct(test.original, [patch(*one) for one in best.items()], test.alternate)
    found = {}
    for (group, heads), right in zip(best.items(), tested, strict=True):
        rows = [(*row, met[group.name][at]) for *row, at in curves[group.name]]
        found[group.name] = Mask(heads, met[group.name][heads], right, pd.DataFrame(rows, columns=CURVE))
    return found


def functional_circuit(
    circuit: Circuit, found: Mapping[tuple[str, str], Mask], functions: Mapping[str, str | None]
) -> Circuit:
    """The circuit with the heads of each group's function alone; all heads of a group that has none.

    found: (group, desideratum) -> mask; functions: group -> desideratum.
    """
    groups = []
    for group in circuit.groups:
        mask = found.get((group.name, functions[group.name]))
        groups.append(replace(group, heads=mask.heads) if mask else group)
    return Circuit(tuple(groups))


def curves(found: Mapping[tuple[str, str], Mask]) -> pd.DataFrame:
    """The curves of all masks: group, desideratum and :attr:`Mask.curve`."""
    named = [mask.curve.assign(group=group, desideratum=name) for (group, name), mask in found.items()]
    return pd.concat(named or [pd.DataFrame(columns=CURVE).assign(group="", desideratum="")], ignore_index=True)


def tested(found: Mapping[tuple[str, str], Mask], scenes: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """One row per mask and test row: group, desideratum, patched (heads), enumerated, validation, scene_id, correct."""
    parts = [
        pd.DataFrame({"scene_id": list(scenes[name]), "correct": mask.test}).assign(
            group=group,
            desideratum=name,
            patched=len(mask.heads),
            enumerated=", ".join(map(str, mask.heads)),
            validation=mask.validation,
        )
        for (group, name), mask in found.items()
    ]
    return pd.concat(parts, ignore_index=True)[TESTED] if parts else pd.DataFrame(columns=TESTED)
