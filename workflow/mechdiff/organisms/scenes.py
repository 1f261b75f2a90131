"""Box scenes as id tensors, drawn in bulk for training. Axes: N scenes, T tokens, K boxes.

The template, the ids of objects and labels, and every position come from ``BoxTask``; here they are only filled in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mechdiff.tasks.boxes.task import BoxTask, Scene


@dataclass(frozen=True)
class Boxes:
    """Prompts input_ids [N, T], the objects' ids [N, K] in order of mention, and the queried ordinal [N]."""

    input_ids: Tensor
    objects: Tensor
    query: Tensor

    def __len__(self) -> int:
        return len(self.query)

    @property
    def answers(self) -> Tensor:
        """Id of the queried box's object [N]."""
        return self.object_at(self.query)

    def object_at(self, ordinal: Tensor) -> Tensor:
        """Id of the object at an ordinal position [N]."""
        return self.objects[torch.arange(len(self)), ordinal]

    def joined(self, other: Boxes) -> Boxes:
        """These scenes, then the others."""
        pairs = ((self.input_ids, other.input_ids), (self.objects, other.objects), (self.query, other.query))
        return Boxes(*(torch.cat(pair) for pair in pairs))

    def __getitem__(self, part: slice) -> Boxes:
        """Some of the scenes."""
        return Boxes(self.input_ids[part], self.objects[part], self.query[part])


class SceneStream:
    """Draws scenes of one task from one seed.

    Attributes
        object_positions, label_positions: token indices [K]; query_label_position, last: token indices.
    """

    def __init__(self, task: BoxTask, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        prompt = task.write(Scene(task.objects[: task.boxes], task.labels[: task.boxes], 0))
        self.template = torch.tensor(prompt.input_ids)
        self.object_positions = torch.tensor(prompt.object_positions)
        self.label_positions = torch.tensor(prompt.label_positions)
        self.query_label_position, self.last = prompt.query_label_position, prompt.last
        self._objects = torch.tensor([task.answer_id(word) for word in task.objects])
        self._labels = torch.tensor(
            [task.write(_labelled(task, x)).input_ids[self.label_positions[0]] for x in task.labels]
        )

    @property
    def boxes(self) -> int:
        return len(self.object_positions)

    def draw(self, n: int, avoiding: Tensor | None = None) -> Boxes:
        """n scenes; ``avoiding`` [N]: queried ordinals that these scenes may not have."""
        if avoiding is None:
            query = torch.randint(self.boxes, (n,), generator=self.generator)
        else:
            query = (avoiding + torch.randint(1, self.boxes, (n,), generator=self.generator)) % self.boxes
        objects, labels = self._distinct(self._objects, n), self._distinct(self._labels, n)
        ids = self.template.repeat(n, 1)
        ids[:, self.object_positions], ids[:, self.label_positions] = objects, labels
        ids[:, self.query_label_position] = labels[torch.arange(n), query]
        return Boxes(ids, objects, query)

    def shuffled_ordinals(self, n: int) -> Tensor:
        """n random orders of the ordinals [N, K]."""
        return torch.rand(n, self.boxes, generator=self.generator).argsort(1)

    def _distinct(self, ids: Tensor, n: int) -> Tensor:
        return ids[torch.rand(n, len(ids), generator=self.generator).argsort(1)[:, : self.boxes]]


def _labelled(task: BoxTask, label: str) -> Scene:
    """A scene whose first box has this label."""
    others = [x for x in task.labels if x != label]
    return Scene(task.objects[: task.boxes], (label, *others[: task.boxes - 1]), 0)
