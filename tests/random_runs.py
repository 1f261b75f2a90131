"""Random models, prompts and sources, and how far the engine is from the plain way on them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mechdiff.circuits import Position
from mechdiff.engine.edits import Edit, PathPatch
from mechdiff.engine.examples import Examples
from mechdiff.engine.plain import PlainRun
from mechdiff.engine.run import Run
from mechdiff.models.patchable import PatchableModel
from micro import micro_llama

VOCABULARY = 50
LAST, QUERY, PREVIOUS, OBJECT, RANDOM = Position
EXACT = 1e-5
ON_GPU = 5e-5  # its fused attention makes products of float32 of three in TF32


@dataclass
class Setting:
    """A random model and prompts, and what edits take from: noise prompts at positions of their own, and means."""

    model: PatchableModel
    examples: Examples
    noise: Examples
    means: torch.Tensor

    def differences(
        self, edits: list[Edit], source: Examples | torch.Tensor | None, memory: int = 10**9
    ) -> list[float]:
        """Largest difference of logits, of log-probabilities and, of path patches, of scores: the mean over examples of
        (p_patch - p_org) / p_org. The most likely words must be the same."""
        fast, plain = Run(self.model, self.examples, memory), PlainRun(self.model, self.examples)
        found = fast.evaluate(edits, replace(fast, examples=source) if isinstance(source, Examples) else source)
        wanted = plain.evaluate(edits, replace(plain, examples=source) if isinstance(source, Examples) else source)
        assert torch.equal(found[1].top, wanted[1].top)
        assert found[1].logit.shape == (len(edits), len(self.examples))
        largest = [(a.logit - b.logit).abs().max() for a, b in zip(found, wanted, strict=True)]
        largest += [(a.log_probability - b.log_probability).abs().max() for a, b in zip(found, wanted, strict=True)]
        if isinstance(edits[0], PathPatch):
            scores = [
                torch.expm1(edited.log_probability - base.log_probability).mean(1) for base, edited in (found, wanted)
            ]
            largest.append((scores[0] - scores[1]).abs().max())
        return [difference.item() for difference in largest]

    def check(self, edits: list[Edit], source: Examples | torch.Tensor | None) -> float:
        """The largest of the differences, which is allowed to be rounding."""
        differences = self.differences(edits, source)
        assert max(differences) <= (ON_GPU if self.model.device.type == "cuda" else EXACT), differences
        return max(differences)


def prompts(n: int, tokens: int, seed: int) -> Examples:
    """Random prompts; ``last`` is the final token, the other positions are different ones before it."""
    g = torch.Generator().manual_seed(seed)
    places = torch.stack([torch.randperm(tokens - 1, generator=g)[:4] for _ in range(n)])
    positions = {
        LAST: torch.full((n,), tokens - 1),
        **dict(zip((QUERY, PREVIOUS, OBJECT, RANDOM), places.T, strict=True)),
    }
    ids = torch.randint(VOCABULARY, (n, tokens), generator=g)
    return Examples(ids, torch.randint(VOCABULARY, (n,), generator=g), positions)


def setting(
    layers: int, heads: int, values: int, head_dim: int, n: int, tokens: int, seed: int, spread: float = 0.15
) -> Setting:
    model = micro_llama(layers, heads, values, head_dim, VOCABULARY, seed, spread)
    means = 0.3 * torch.randn(layers, tokens, heads, head_dim, generator=torch.Generator().manual_seed(seed))
    return Setting(model, prompts(n, tokens, seed), prompts(n, tokens, seed + 1), means)
