"""One optimisation step at a time: AdamW with warm-up and linear decay of the rate, and clipped gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def learning_rate(step: int, settings: Mapping[str, Any]) -> float:
    """Rate at a step, from 0: linear from ``learning_rate`` to ``last_learning_rate``, times a linear warm-up."""
    first, last = settings["learning_rate"], settings["last_learning_rate"]
    return min(1.0, (step + 1) / settings["warm_up"]) * (first + (last - first) * step / settings["steps"])


class Trainer:
    """Minimises losses over some parameters."""

    def __init__(self, parameters: Iterable[nn.Parameter], settings: Mapping[str, Any]):
        self.parameters, self.settings, self.steps = list(parameters), settings, 0
        self.optimizer = torch.optim.AdamW(
            self.parameters, betas=(0.9, settings["beta_2"]), weight_decay=settings["weight_decay"]
        )

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of a loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.steps, self.settings)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.settings["largest_gradient"])
        self.optimizer.step()
        self.steps += 1
