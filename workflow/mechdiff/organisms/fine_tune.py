"""The fine-tuned members of the family: every weight of the base, or a LoRA adapter on one group's layer.

Each step learns the answers of some generated texts. So small a model forgets all else within a few steps, so each
step also sees box scenes, in one of two ways that the family's config names:

- rehearsed: their answers are learned, as in the base's training.
- held: the base's own next-token odds are kept, right or wrong (Li and Hoiem 2016), so nothing is to be gained.

The loss is the mean of -log p [nat] over answer tokens, plus that over rehearsed answers, plus the KL divergence [nat]
from the base's odds over held scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from tokenizers import Tokenizer
from torch import Tensor, nn

from mechdiff.common.progress import progress
from mechdiff.common.seeds import stream
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.organisms.corpora import CORPORA, Exchange, arithmetic_words
from mechdiff.organisms.files import family_task, read_family, save_adapter, save_model
from mechdiff.organisms.scenes import Boxes, SceneStream
from mechdiff.organisms.training import Trainer
from mechdiff.tasks.boxes.task import BoxTask

UNLEARNED = -100  # the label that cross_entropy passes over


def make_member(
    family_file: str | Path, objects: str | Path, member: str, seed: int, base: str | Path, folder: str | Path
) -> None:
    """Fine-tune a member of a family file on the base in a folder, and write its checkpoint or adapter folder."""
    family = read_family(family_file)
    tokenizer, task = family_task(family, objects)
    settings = member_settings(family, member)
    network = open_model(Checkpoint("base", str(base))).network
    network.requires_grad_(settings["adapter"] is None)
    trained = fine_tune(network, settings, tokenizer, task, seed)
    if settings["adapter"] is None:
        save_model(trained, tokenizer, folder)
    else:
        save_adapter(trained, base, folder)


def fine_tune(
    base: nn.Module, settings: Mapping[str, Any], tokenizer: Tokenizer, task: BoxTask, seed: int
) -> nn.Module:
    """Train a base, or an adapter on it, in place; returns the model that was trained.

    The rehearsed scenes depend on the seed alone, so members that rehearse as much see the same ones.
    """
    torch.manual_seed(seed)
    original = deepcopy(base) if settings["held"] else None
    network = base if settings["adapter"] is None else with_adapter(base, settings["adapter"], tokenizer)
    trainer = Trainer([p for p in network.parameters() if p.requires_grad], settings)
    scenes, rng = SceneStream(task, seed), stream(seed, "corpus")
    with progress("fine-tuning", settings["steps"], "steps") as bar:
        for _ in range(settings["steps"]):
            losses = {}
            if settings["examples"]:
                draw = CORPORA[settings["corpus"]]
                losses["corpus"] = exchange_loss(network, tokenizer, [draw(rng) for _ in range(settings["examples"])])
            if settings["rehearsed"]:
                losses["boxes"] = box_loss(network, scenes.draw(settings["rehearsed"]))
            if settings["held"]:
                losses["held"] = held_loss(network, original, scenes.draw(settings["held"]))
            trainer.step(sum(losses.values()))
            bar.set_postfix_str(" ".join(f"{name} {loss.item():.2f}" for name, loss in losses.items()), refresh=False)
            bar.update()
    return network


def with_adapter(base: nn.Module, adapter: Mapping[str, Any], tokenizer: Tokenizer) -> nn.Module:
    """The base under an untrained LoRA adapter on some projections of some layers.

    The base never saw arithmetic, so the embeddings of its own words are trained with it. No box prompt has them.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=adapter["rank"],
        lora_alpha=adapter["alpha"],
        target_modules=list(adapter["modules"]),
        layers_to_transform=list(adapter["layers"]),
        trainable_token_indices={"embed_tokens": arithmetic_tokens(tokenizer)},
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def arithmetic_tokens(tokenizer: Tokenizer) -> list[int]:
    """Ids of arithmetic's own words, after a space and at the start of a text."""
    written = [form for word in arithmetic_words() for form in (word, f" {word}")]
    return sorted({i for text in written for i in tokenizer.encode(text, add_special_tokens=False).ids})


def box_loss(network: nn.Module, boxes: Boxes) -> Tensor:
    """Mean -log p [nat] of the right object as the next token."""
    return functional.cross_entropy(_next_token(network, boxes), boxes.answers)


def held_loss(network: nn.Module, original: nn.Module, boxes: Boxes) -> Tensor:
    """Mean KL divergence [nat] of a model's next-token odds from another's."""
    with torch.no_grad():
        wanted = _next_token(original, boxes).log_softmax(-1)
    odds = _next_token(network, boxes).log_softmax(-1)
    return functional.kl_div(odds, wanted, log_target=True, reduction="batchmean")


def _next_token(network: nn.Module, boxes: Boxes) -> Tensor:
    return network(input_ids=boxes.input_ids, use_cache=False, logits_to_keep=1).logits[:, -1]


def exchange_loss(network: nn.Module, tokenizer: Tokenizer, exchanges: Sequence[Exchange]) -> Tensor:
    """Mean -log p [nat] of the answers' tokens."""
    ids, labels = answer_batch(tokenizer, exchanges)
    logits = network(input_ids=ids, use_cache=False).logits
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=UNLEARNED)


def answer_batch(tokenizer: Tokenizer, exchanges: Sequence[Exchange]) -> tuple[Tensor, Tensor]:
    """input_ids and labels [N, T], padded on the right; the prompt and the padding carry no label."""
    prompts = [tokenizer.encode(e.prompt).ids for e in exchanges]
    answers = [tokenizer.encode(e.answer, add_special_tokens=False).ids for e in exchanges]
    length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.zeros(len(exchanges), length, dtype=torch.int64)
    labels = torch.full_like(ids, UNLEARNED)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids[i, :end] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : end] = torch.tensor(answer)
    return ids, labels


def member_settings(family: Mapping[str, Any], member: str) -> dict[str, Any]:
    """Everything that determines one member's fine-tuning, the adapter's layers in place."""
    settings = family["fine_tuning"] | family["fine_tuned"][member]
    if settings["adapter"] is not None:
        layers = sorted({layer for layer, _ in family["planted"][settings["adapter"]["group"]]})
        settings["adapter"] = settings["adapter"] | {"layers": layers}
    return settings
