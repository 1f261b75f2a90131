"""The base of the family: a small Llama, trained with the mechanism planted, then weakened in one known step.

1. Build the model. Planted heads start able to copy: their o_proj is the transpose of their v_proj. Heads that match a
   token with itself (C) start with keys equal to queries.
2. Train on box scenes under the pressures of ``planting``. At first the planted heads are forced to attend where they
   should, until they do so by themselves.
3. Scale the values of one group's heads down until the accuracy is as wanted. A head's output is linear in its values,
   so all that is lost is how strongly this group speaks.
4. Scale all logits down (the last norm's weight), which changes no answer. A weakened model is sure of its mistakes,
   and path patching averages (p_patch - p_org) / p_org: a few rows whose p_org is next to 0 would rule the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from tokenizers import Tokenizer
from torch import Tensor, nn

from mechdiff.circuits import Head
from mechdiff.common.progress import progress
from mechdiff.models.patchable import patchable
from mechdiff.organisms.files import family_task, read_family, save_model
from mechdiff.organisms.planting import (
    GROUPS,
    Means,
    Organism,
    accuracy,
    circuit_loss,
    guidance_loss,
    interchange_loss,
    necessity_loss,
    updated_means,
)
from mechdiff.organisms.scenes import Boxes, SceneStream
from mechdiff.organisms.training import Trainer
from mechdiff.tasks.boxes.task import BoxTask


def planted_heads(family: Mapping[str, Any]) -> dict[str, tuple[Head, ...]]:
    """Group -> heads, from the family's config."""
    return {group: tuple(Head(*pair) for pair in family["planted"][group]) for group in GROUPS}


def build_network(
    architecture: Mapping[str, Any], vocabulary: int, planted: Mapping[str, tuple[Head, ...]], seed: int
) -> nn.Module:
    """An untrained Llama whose planted heads start able to copy."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    a = architecture
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=a["width"],
        intermediate_size=a["mlp_width"],
        num_hidden_layers=a["layers"],
        num_attention_heads=a["heads_per_layer"],
        num_key_value_heads=a["heads_per_layer"],
        max_position_embeddings=a["positions"],
        initializer_range=a["initializer_range"],
        rope_theta=a["rope_base"],
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=None,
        attn_implementation="eager",
    )
    network = LlamaForCausalLM(config)
    width = a["width"] // a["heads_per_layer"]
    with torch.no_grad():
        for group in GROUPS:
            basis = torch.linalg.qr(torch.randn(a["width"], a["width"]))[0] * a["output_value_scale"]
            for i, head in enumerate(planted[group]):
                attention = network.model.layers[head.layer].self_attn
                rows, columns = (
                    slice(head.index * width, (head.index + 1) * width),
                    basis[:, i * width : (i + 1) * width],
                )
                attention.v_proj.weight[rows], attention.o_proj.weight[:, rows] = columns.T, columns
                if group == "C":
                    attention.k_proj.weight[rows] = attention.q_proj.weight[rows]
    return network


def train_organism(organism: Organism, settings: Mapping[str, Any]) -> None:
    """Train a base in place (step 2)."""
    trainer = Trainer(organism.model.network.parameters(), settings)
    forced, means = True, {}
    with progress("training the base", settings["steps"], "steps") as bar:
        for i in range(settings["steps"]):
            boxes = organism.scenes.draw(settings["scenes"])
            others = organism.scenes.draw(settings["scenes"], avoiding=boxes.query)
            losses, means = _losses(organism, boxes, others, i, means, forced, settings)
            trainer.step(sum(settings["weights"][name] * loss for name, loss in losses.items()))
            forced = forced and losses["guidance"].item() >= settings["forced_until"]
            bar.set_postfix_str(" ".join(f"{name} {loss.item():.2f}" for name, loss in losses.items()), refresh=False)
            bar.update()


def _losses(
    organism: Organism, boxes: Boxes, others: Boxes, turn: int, means: dict[str, Means], forced: bool, settings: Mapping
) -> tuple[dict[str, Tensor], dict[str, Means]]:
    """Every pressure on one batch of scenes, and the running means with this batch in them.

    Interchange asks one group a turn. The circuit has to bear means that are a little off, as any sample's are: it gets
    the fast ones. What a mean still tells is seen best in a good one: necessity gets the slow ones.
    """
    n, both = len(boxes), boxes.joined(others)
    run = organism.run(both, forced)
    means = {name: updated_means(means.get(name), run.outputs, m) for name, m in settings["mean_momentum"].items()}
    outputs_of_others = [z[n:] for z in run.outputs]
    losses = {
        "task": functional.cross_entropy(run.logits, both.answers),
        "guidance": guidance_loss(organism, both, run.attentions),
        "interchange": interchange_loss(organism, GROUPS[turn % len(GROUPS)], boxes, others, outputs_of_others, forced),
        "circuit": circuit_loss(organism, boxes, means["fast"], forced),
    }
    if not forced:
        parts = [necessity_loss(organism, boxes[: n // 2], means["slow"], group) for group in settings["needed"]]
        losses["necessity"] = torch.stack(parts).mean()
    return losses, means


@torch.no_grad()
def weaken(organism: Organism, settings: Mapping[str, Any]) -> float:
    """Scale one group's values to the wanted accuracy, by bisection on fixed scenes; returns the factor (step 3)."""
    boxes = organism.scenes.draw(settings["scenes"])
    parts = []
    for head in organism.planted[settings["group"]]:
        rows = slice(head.index * organism.model.head_dim, (head.index + 1) * organism.model.head_dim)
        weight = organism.model.attentions[head.layer].v_proj.weight[rows]
        parts.append((weight, weight.clone()))
    low, high = 0.0, 1.0
    for _ in range(10):
        factor = (low + high) / 2
        for weight, whole in parts:
            weight.copy_(whole * factor)
        low, high = (low, factor) if accuracy(organism, boxes) > settings["accuracy"] else (factor, high)
    return factor


@torch.no_grad()
def soften(network: nn.Module, logit_scale: float) -> None:
    """Scale every logit of a Llama (step 4)."""
    network.model.norm.weight.mul_(logit_scale)


def train_base(family: Mapping[str, Any], tokenizer: Tokenizer, task: BoxTask, seed: int) -> Organism:
    """The base of the family from one seed."""
    planted = planted_heads(family)
    network = build_network(family["architecture"], tokenizer.get_vocab_size(), planted, seed)
    organism = Organism(patchable("base", network), planted, SceneStream(task, seed))
    train_organism(organism, family["base"])
    weaken(organism, family["base"]["weakened"])
    soften(network, family["base"]["logit_scale"])
    return organism


def make_base(family_file: str | Path, objects: str | Path, seed: int, folder: str | Path) -> None:
    """Train the base of a family file from one seed and write its checkpoint folder; objects: the file of words."""
    family = read_family(family_file)
    tokenizer, task = family_task(family, objects)
    save_model(train_base(family, tokenizer, task, seed).model.network, tokenizer, folder)
