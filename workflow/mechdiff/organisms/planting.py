"""What is planted: four groups of named heads, and the pressures that give each its part in the paper's mechanism.

A group's heads write at one position what they read at another (paper, Figure 1):

    D  Structure Reader      at a label,         from its own segment's object
    C  Position Detector     at the query label, from the same label in the context
    B  Position Transmitter  at the last token,  from the query label
    A  Value Fetcher         at the last token,  from the correct object

Pressures, each a loss over scenes (interchange intervention training: Geiger et al. 2022):

- guidance: -log of the attention that each head pays from where it writes to where it reads.
- interchange: with one group's outputs taken from another scene, the answer is the other scene's object for A (it
  carries the value), and this scene's object at the other's ordinal for B, C and D (they carry the position); for these
  three, A must also look there.
- circuit: with every other (head, position) at its mean output, the answer is still right. In half of the rows the
  means at the labels are those of another ordinal, so that the ordinal can reach C through D alone.
- necessity: with A or D at its mean too, nothing is known about which object it is. For D: a mean is taken per token
  index, so it would tell the ordinal by itself if D wrote it in the same way for every object. For A: D reads objects,
  so B could pass on the object itself.

While ``forced``, each planted head's output where it writes is its value vector from where it reads, as if it attended
there alone: every group then learns from right inputs while the groups before it are still learning where to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from mechdiff.circuits import Head
from mechdiff.models.hooks import Edit, editing_outputs
from mechdiff.models.patchable import PatchableModel
from mechdiff.organisms.scenes import Boxes, SceneStream

GROUPS = ("A", "B", "C", "D")
Means = list[Tensor]  # per layer [T, H, D]


@dataclass(frozen=True)
class Run:
    """One pass: logits [N, V], attention per layer [N, H, T, T], head outputs per layer [N, T, H, D]."""

    logits: Tensor
    attentions: tuple[Tensor, ...]
    outputs: list[Tensor]


@dataclass(frozen=True)
class Organism:
    """A model, the heads planted in it, and the scenes it lives on."""

    model: PatchableModel
    planted: Mapping[str, tuple[Head, ...]]
    scenes: SceneStream

    def run(self, boxes: Boxes, forced: bool = False, edit: Edit | None = None) -> Run:
        """One pass over some scenes; ``edit`` as in ``editing_outputs``, after forcing."""
        values: dict[nn.Module, Tensor] = {}
        outputs: list[Tensor] = []

        def keep_values(module, args, v: Tensor) -> None:
            values[module] = v.unflatten(-1, (-1, self.model.head_dim))

        def edit_outputs(layer: int, z: Tensor) -> Tensor:
            if forced:
                z = self._attending_alone(layer, z, values[projections[layer]], boxes)
            if edit is not None:
                z = edit(layer, z)
            outputs.append(z)
            return z

        projections = [attention.v_proj for attention in self.model.attentions]
        handles = [v_proj.register_forward_hook(keep_values) for v_proj in projections]
        try:
            with editing_outputs(self.model, edit_outputs):
                result = self.model.network(
                    input_ids=boxes.input_ids, use_cache=False, output_attentions=True, logits_to_keep=1
                )
        finally:
            for handle in handles:
                handle.remove()
        return Run(result.logits[:, -1], result.attentions, outputs)

    def route(self, group: str, boxes: Boxes) -> tuple[Tensor, Tensor]:
        """Where a group's heads write and read, token indices [N, P] each; D has one place per box."""
        s, n = self.scenes, len(boxes)
        last, query_label = torch.full((n, 1), s.last), torch.full((n, 1), s.query_label_position)
        return {
            "A": (last, s.object_positions[boxes.query][:, None]),
            "B": (last, query_label),
            "C": (query_label, s.label_positions[boxes.query][:, None]),
            "D": (s.label_positions.expand(n, -1), s.object_positions.expand(n, -1)),
        }[group]

    def circuit_position(self, group: str, boxes: Boxes) -> Tensor:
        """The position at which the group is in the circuit [N]."""
        if group == "D":
            return self.scenes.label_positions[boxes.query]
        return self.route(group, boxes)[0][:, 0]

    def heads_in(self, layer: int, group: str) -> list[int]:
        """Indices of a group's heads in one layer."""
        return [head.index for head in self.planted[group] if head.layer == layer]

    def _attending_alone(self, layer: int, z: Tensor, values: Tensor, boxes: Boxes) -> Tensor:
        rows = torch.arange(len(boxes))[:, None]
        z = z.clone()
        for group in GROUPS:
            at, source = self.route(group, boxes)
            for head in self.heads_in(layer, group):
                z[rows, at, head] = values[rows, source, head]
        return z

    def taking(self, group: str, boxes: Boxes, other: Boxes, outputs: list[Tensor]) -> Edit:
        """The edit that gives a group's heads their outputs from another run, of the scenes ``other``."""
        at, source = self.circuit_position(group, boxes), self.circuit_position(group, other)
        rows = torch.arange(len(boxes))

        def edit(layer: int, z: Tensor) -> Tensor:
            z = z.clone()
            for head in self.heads_in(layer, group):
                z[rows, at, head] = outputs[layer][rows, source, head]
            return z

        return edit

    def ablating(self, boxes: Boxes, means: Means, dropped: str = "", shuffled: int = 0) -> Edit:
        """The edit that leaves the circuit alone: all else is at its mean.

        dropped: a group ablated too. shuffled: for that many first rows the means at the labels are another ordinal's.
        """
        n, s = len(boxes), self.scenes
        rows, tokens = torch.arange(n), torch.arange(len(s.template)).repeat(n, 1)
        tokens[:shuffled, s.label_positions] = s.label_positions[s.shuffled_ordinals(shuffled)]

        def edit(layer: int, z: Tensor) -> Tensor:
            edited = means[layer][tokens]
            for group in GROUPS:
                at = self.circuit_position(group, boxes)
                for head in self.heads_in(layer, group) if group != dropped else ():
                    edited[rows, at, head] = z[rows, at, head]
            return edited

        return edit


def guidance_loss(organism: Organism, boxes: Boxes, attentions: tuple[Tensor, ...]) -> Tensor:
    """Mean over planted heads of -log attention [nat] along the head's route."""
    rows = torch.arange(len(boxes))[:, None]
    losses = []
    for group in GROUPS:
        at, source = organism.route(group, boxes)
        losses += [-_log(attentions[h.layer][rows, h.index, at, source]).mean() for h in organism.planted[group]]
    return torch.stack(losses).mean()


def interchange_loss(
    organism: Organism, group: str, boxes: Boxes, other: Boxes, outputs: list[Tensor], forced: bool
) -> Tensor:
    """-log p [nat] of the answer that follows when one group's outputs come from the run of the scenes ``other``.

    For B, C and D also -log of A's attention to that answer's place; while A is forced that alone is asked.
    """
    run = organism.run(boxes, forced, organism.taking(group, boxes, other, outputs))
    if group == "A":
        return functional.cross_entropy(run.logits, other.answers)
    rows, s = torch.arange(len(boxes)), organism.scenes
    looks = [
        _log(run.attentions[h.layer][rows, h.index, s.last, s.object_positions[other.query]])
        for h in organism.planted["A"]
    ]
    loss = -torch.stack(looks).mean()
    return loss if forced else loss + functional.cross_entropy(run.logits, boxes.object_at(other.query))


def circuit_loss(organism: Organism, boxes: Boxes, means: Means, forced: bool) -> Tensor:
    """-log p(answer) [nat] of the circuit alone; the first half of the rows has shuffled means at the labels."""
    edit = organism.ablating(boxes, means, shuffled=len(boxes) // 2)
    return functional.cross_entropy(organism.run(boxes, forced, edit).logits, boxes.answers)


def necessity_loss(organism: Organism, boxes: Boxes, means: Means, dropped: str) -> Tensor:
    """KL divergence [nat] from even odds among the scene's objects when a group of the circuit is ablated too."""
    logits = organism.run(boxes, edit=organism.ablating(boxes, means, dropped)).logits
    among = logits.gather(1, boxes.objects).log_softmax(-1)
    return -among.mean() - log(boxes.objects.shape[1])


def updated_means(means: Means | None, outputs: list[Tensor], momentum: float) -> Means:
    """The running mean output of each head at each token."""
    fresh = [z.detach().mean(0) for z in outputs]
    if means is None:
        return fresh
    return [momentum * old + (1 - momentum) * new for old, new in zip(means, fresh, strict=True)]


@torch.no_grad()
def accuracy(organism: Organism, boxes: Boxes, batch_size: int = 250) -> float:
    """Share of scenes whose most likely next token is the answer."""
    parts = [boxes[start : start + batch_size] for start in range(0, len(boxes), batch_size)]
    return sum((organism.run(part).logits.argmax(-1) == part.answers).sum().item() for part in parts) / len(boxes)


def _log(probability: Tensor) -> Tensor:
    return probability.clamp_min(1e-6).log()
