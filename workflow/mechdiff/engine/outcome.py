"""What a run says at its final token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mechdiff.models.patchable import PatchableModel


@dataclass(frozen=True)
class Outcome:
    """Of runs [..., N]: the answer's logit (float32) and log-probability (float64), and the most likely token's id."""

    logit: Tensor
    log_probability: Tensor
    top: Tensor

    def map(self, change) -> Outcome:
        """The same change made to each."""
        return Outcome(change(self.logit), change(self.log_probability), change(self.top))


def read_outcome(model: PatchableModel, stream: Tensor, answers: Tensor, block: int) -> Outcome:
    """Outcomes [R, n] of streams after the last layer [n, R, D], ``block`` rows of logits at a time; answers [n]."""
    rows = stream.shape[1]
    wanted = answers[:, None].expand(-1, rows).reshape(-1)
    parts = [_read(model, x, a) for x, a in zip(stream.flatten(0, 1).split(block), wanted.split(block), strict=True)]
    return joined(parts, 0).map(lambda x: x.view(-1, rows).T)


def _read(model: PatchableModel, stream: Tensor, answers: Tensor) -> Outcome:
    logits = model.unembed(stream)
    highest, top = logits.detach().max(-1, keepdim=True)
    logit = logits.gather(-1, answers[:, None])
    below = logits - highest if logits.requires_grad else logits.sub_(highest)
    mass = below.exp_().sum(-1, keepdim=True)
    probability = (logit - highest).double() - mass.double().log()
    return Outcome(logit[:, 0], probability[:, 0], top[:, 0])


def joined(parts: Sequence[Outcome], axis: int) -> Outcome:
    """Outcomes one after the other."""
    columns = ([getattr(part, name) for part in parts] for name in ("logit", "log_probability", "top"))
    return Outcome(*(torch.cat(column, axis) for column in columns))
