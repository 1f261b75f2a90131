"""Adapters stay in force in every patched run: an adapter on its base is the model that it makes when merged."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from families import HEADS, LAYERS, tiny
from mechdiff.circuits import Head
from mechdiff.engine.edits import Block, Keep, Part, PathPatch, Replace
from mechdiff.engine.run import Run
from mechdiff.models.patchable import PatchableModel, patchable
from random_runs import EXACT, LAST, OBJECT, PREVIOUS, QUERY, Setting, prompts

RECEIVERS = (Head(1, 0), Head(2, 3))
KINDS: dict[str, dict] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "biased": {"bias": "all"},
}
KINDS |= {"attention": {"target_modules": ["o_proj", "v_proj"]}, "ranks": {"rank_pattern": {"o_proj": 5}, "r": 3}}


def adapted(family: str, **own) -> tuple[PatchableModel, PatchableModel]:
    """A random adapter on a random base, unmerged and merged."""
    torch.manual_seed(0)
    settings = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False} | own
    wrapped: PeftModel = get_peft_model(tiny(family), LoraConfig(**settings)).eval().requires_grad_(False)
    with torch.no_grad():  # what peft draws is too large for some, and DoRA starts at the base's own norms
        for name, parameter in wrapped.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(torch.linspace(0.8, 1.2, len(parameter)))
            elif "lora_B" in name:
                parameter.mul_(0.3)
    merged = copy.deepcopy(wrapped).merge_and_unload()
    return patchable("adapter", wrapped.base_model.model), patchable("merged", merged)


def everything(model: PatchableModel) -> list[torch.Tensor]:
    """Answers' logits after edits of every kind."""
    clean, noise = (Run(model, prompts(4, 14, seed), 10**9) for seed in (1, 2))
    means = 0.3 * torch.randn(LAYERS, 14, HEADS, model.head_dim, generator=torch.Generator().manual_seed(3))
    asked: list[tuple[list[Any], Any]] = [([PathPatch(head, LAST) for head in model.heads], noise)]
    asked += [([PathPatch(head, QUERY, RECEIVERS, Part.VALUE) for head in model.heads], noise)]
    asked += [([PathPatch(head, LAST, RECEIVERS, Part.QUERY) for head in model.heads], noise)]
    asked += [([Keep(frozenset({(Head(1, 1), LAST), (Head(0, 0), PREVIOUS)}))], means)]
    asked += [([Replace(frozenset({(head, LAST)})) for head in model.heads], noise)]
    asked += [([Block(LAST, OBJECT, layer) for layer in range(LAYERS)], None)]
    return [torch.cat([x.logit.flatten() for x in clean.evaluate(edits, source)]) for edits, source in asked]


def same_as_merged(wrapped: PatchableModel, merged: PatchableModel) -> None:
    for found, wanted in zip(everything(wrapped), everything(merged), strict=True):
        torch.testing.assert_close(found, wanted, atol=EXACT, rtol=0)


@pytest.mark.parametrize(
    "family", ["llama-3", "qwen3", "gemma2", "phi3", "olmo2", "gpt2", "gpt_neox", "gptj", "falcon"]
)
def test_on_every_projection(family):
    wrapped, merged = adapted(family)
    base = everything(patchable("base", tiny(family)))
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(everything(merged), base, strict=True))
    same_as_merged(wrapped, merged)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_lora(kind):
    same_as_merged(*adapted("llama", **KINDS[kind]))


def test_the_engine_is_the_plain_way_with_an_adapter():
    wrapped, _ = adapted("llama", use_dora=True)
    a = Setting(wrapped, prompts(4, 14, 1), prompts(4, 14, 2), torch.zeros(LAYERS, 14, HEADS, wrapped.head_dim))
    a.check([PathPatch(head, QUERY, RECEIVERS, Part.VALUE) for head in wrapped.heads], a.noise)
    a.check([Keep(frozenset({(Head(1, 1), LAST)}))], a.means)
