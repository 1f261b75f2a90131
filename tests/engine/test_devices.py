"""A model spread over devices by a device map, here over memory and disk: the runs of the model held in one place."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from families import HEADS, LAYERS, tiny
from mechdiff.circuits import Head
from mechdiff.engine.edits import Block, Keep, Mix, Part, PathPatch, Replace
from mechdiff.engine.run import Run
from mechdiff.models.patchable import PatchableModel, patchable
from random_runs import EXACT, LAST, OBJECT, PREVIOUS, QUERY, prompts

RECEIVERS = (Head(1, 0), Head(2, 3))
LISTS = {"llama": "model.layers", "gpt2": "transformer.h", "gptj": "transformer.h", "falcon-grouped": "transformer.h"}


def outcomes(model: PatchableModel) -> list[torch.Tensor]:
    clean, noise = (Run(model, prompts(4, 14, seed), 10**9) for seed in (1, 2))
    means = 0.3 * torch.randn(LAYERS, 14, HEADS, model.head_dim, generator=torch.Generator().manual_seed(3))
    own = torch.tensor([0.5, 0.2], requires_grad=True)
    asked: list[tuple[list[Any], Any]] = [([PathPatch(head, LAST) for head in model.heads], noise)]
    asked += [([PathPatch(head, QUERY, RECEIVERS, Part.VALUE) for head in model.heads], noise)]
    asked += [([Keep(frozenset({(Head(1, 1), LAST), (Head(0, 0), PREVIOUS)}))], means)]
    asked += [([Replace(frozenset({(head, LAST)}), frozenset({Part.QUERY, Part.KEY})) for head in model.heads], clean)]
    asked += [([Block(LAST, OBJECT, layer) for layer in range(LAYERS)], None)]
    asked += [([Mix(QUERY, (Head(0, 1), Head(1, 2)), own)], noise)]
    found = [clean.evaluate(edits, source)[1].logit for edits, source in asked]
    found[-1].sum().backward()
    return [*found, own.grad, clean.mean_outputs()]


@pytest.mark.parametrize(
    ("family", "also"), [*((family, ()) for family in LISTS), ("llama", ("embed_tokens",)), ("gptj", ("wte",))]
)
def test_weights_on_disk_are_brought_in_as_they_are_run(family, also, tmp_path):
    whole = patchable("whole", tiny(family))
    whole.network.save_pretrained(tmp_path / "checkpoint")
    body, layers = LISTS[family].split(".")
    others = [f"{body}.{name}" for name, _ in getattr(whole.network, body).named_children() if name != layers]
    places = dict.fromkeys([*others, "lm_head"], "cpu")
    places |= {name: "disk" for name in others if name.rpartition(".")[2] in also}
    places |= {f"{body}.{layers}.{i}": "disk" if i == 1 else "cpu" for i in range(LAYERS)}
    spread = AutoModelForCausalLM.from_pretrained(
        tmp_path / "checkpoint", device_map=places, offload_folder=tmp_path / "offload"
    )
    spread = patchable("spread", spread.eval().requires_grad_(False))
    assert {p.device.type for p in spread.layers[1].parameters()} == {"meta"}
    for found, wanted in zip(outcomes(spread), outcomes(whole), strict=True):
        torch.testing.assert_close(found, wanted, atol=EXACT, rtol=0)
