"""Before any experiment on a model: is it comparable with its base, and do edits do what they should?

1. Its tokenizer gives the base's tokens for the run's prompts.
2. As opened it has its base's heads, so that they can be compared by name, an embedding for each of those tokens, and
   as many places as prompts have tokens.
3. The engine's captured run gives the logits of the model's own forward pass.
4. A null patch, each layer's outputs at the named positions replaced by those of the same run, leaves them as they
   are. Where one does not, the head is named that changes most by itself.
5. With those outputs at zero, some logit changes by more: edits arrive.
6. How much rounding alone can change the probability of an answer: discovery takes smaller scores for nothing.
7. Its accuracy on the discovery prompts. A model hardly better than chance gets no circuit, and no experiment is
   made on it; this stops nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn import Embedding

from mechdiff.circuits import Head
from mechdiff.common.errors import InputError
from mechdiff.engine.edits import Replace
from mechdiff.engine.examples import clean_examples
from mechdiff.engine.run import Run
from mechdiff.experiments.faithfulness import model_correct
from mechdiff.models.checkpoints import (
    CONFIG,
    TOKENIZER,
    Checkpoint,
    read_tokenizer,
    require_checkpoint,
    require_heads,
    tokenizer_folder,
)
from mechdiff.models.hooks import last_logits
from mechdiff.models.loading import open_model
from mechdiff.models.patchable import PatchableModel

PROMPTS = 32  # that 3 to 6 are tried on
PLAIN = "whole forward passes"
HOW = {True: "causal cone", False: PLAIN}  # what a model's edits are computed by, by whether the engine knows it


def check_model(
    checkpoint: Checkpoint,
    prompts: pd.DataFrame,
    tolerance: float,
    chance: float,
    least: float,
    memory: int,
) -> dict[str, Any]:
    """What was found; InputError on the first thing that is not right.

    tolerance: of the null patch [logit]; least: accuracy below which nothing is evaluated, in multiples of chance.
    """
    require_checkpoint(checkpoint.whole)
    require_checkpoint(checkpoint)
    path, examples = checkpoint.path, clean_examples(prompts)
    _require_tokens(checkpoint, prompts)
    model = open_model(checkpoint)
    shape = model.shape
    require_heads(checkpoint, shape)
    _require_places(checkpoint, model, examples.input_ids.shape[1])
    if (largest := int(examples.input_ids.max())) >= shape.vocabulary:
        file = tokenizer_folder(checkpoint) / TOKENIZER
        raise InputError(f"{file}: gives id {largest}, the model knows ids below {shape.vocabulary}")
    run = Run(model, examples.take(slice(PROMPTS)), memory)
    captured = capture_difference(run)
    if not captured <= tolerance:
        raise InputError(f"{path}: its logits and those of its captured run differ by {captured:g}, over {tolerance:g}")
    differences, effects = null_patch_differences(run), zero_patch_differences(run)
    for layer, (difference, effect) in enumerate(zip(differences, effects, strict=True)):
        if not difference <= tolerance:
            head, alone = worst_head(run, layer)
            raise InputError(
                f"{path}: a null patch in layer {layer} changes a logit by {difference:g}, over {tolerance:g};"
                f" of its heads alone {head} by {alone:g}"
            )
        if not effect > difference:
            raise InputError(f"{path}: with layer {layer} silenced no logit changes by more than {difference:g}")
    found = {"shape": str(shape), "computed": HOW[model.known], "captured": captured}
    found["null_patch"] = {"largest_by_layer": differences, "tolerance": tolerance}
    found["rounding"] = rounding(run, [captured, *differences])
    accuracy = model_correct(Run(model, examples, memory)).mean().item()
    reason = f"accuracy {accuracy:.2f}, chance {chance:.2f}" if accuracy < least * chance else None
    return found | {"accuracy": accuracy, "n": len(examples), "chance": chance, "not_evaluated": reason}


def _require_tokens(checkpoint: Checkpoint, prompts: pd.DataFrame) -> None:
    """Refuse a tokenizer that does not give the base's tokens."""
    folder, of_base = tokenizer_folder(checkpoint), tokenizer_folder(checkpoint.base or checkpoint)
    tokenizer, wanted = read_tokenizer(folder), read_tokenizer(of_base)
    for prompt, ids in zip(prompts["prompt"], prompts["input_ids"], strict=True):
        given = tokenizer.encode(prompt).ids
        if given != list(ids):
            unknown = [token for token in map(wanted.id_to_token, ids) if tokenizer.token_to_id(token) is None]
            reason = f"has no token {unknown[0]!r}" if unknown else "does not give the base's tokens"
            if given == list(ids)[1:]:
                reason = f"puts no {wanted.id_to_token(ids[0])!r} before the text, as its base's does,"
            key = f"models.{checkpoint.name}.tokenizer"
            allowed = f"one that gives them; if the model was trained on the base's tokens, {key}: {of_base}"
            raise InputError(f"{folder / TOKENIZER}: {reason} for {prompt!r}; allowed: {allowed}")


def _require_places(checkpoint: Checkpoint, model: PatchableModel, tokens: int) -> None:
    """Refuse a model that has a table of places, learned or computed, with fewer of them than prompts have tokens."""
    network, most = model.network, getattr(model.network.config, "max_position_embeddings", None)
    tables = [
        m.weight for m in network.modules() if isinstance(m, Embedding) and m is not network.get_input_embeddings()
    ]
    sizes = {size for table in [*tables, *network.buffers()] if table.ndim > 1 for size in table.shape}
    if most is not None and most < tokens and sizes & set(range(most, most + 3)):  # OPT has two rows more
        key = network.config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
        file = Path(checkpoint.whole.path) / CONFIG
        raise InputError(f"{file}: {key} is {most}; allowed: at least {tokens}, prompts have so many tokens")


def capture_difference(run: Run) -> float:
    """Largest difference of an answer's logit between the model's own forward pass and its captured run."""
    examples = run.examples
    own = last_logits(run.model, examples.input_ids).float().cpu().gather(1, examples.answers[:, None])[:, 0]
    return (run.evaluate([])[0].logit - own).abs().max().item()


def rounding(run: Run, differences: Sequence[float]) -> float:
    """The largest relative change of an answer's probability that rounding makes: twice that of a logit, since its
    logarithm is one logit less a mean of all.

    differences: of logits that should be equal, from :func:`capture_difference` and :func:`null_patch_differences`. A
    logit is never known better than to half a unit in the last place of the largest one.
    """
    last_place = torch.finfo(run.model.weight.dtype).eps * run.evaluate([])[0].logit.abs().max().item()
    return 2 * max(*differences, last_place / 2)


def null_patch_differences(run: Run) -> list[float]:
    """Largest change of an answer's logit when all outputs of a layer are replaced by the same run's, layer by layer.

    0 but for rounding; anything else is a reason to stop.
    """
    return _changes(run, run)


def worst_head(run: Run, layer: int) -> tuple[Head, float]:
    """The head of a layer whose null patch changes an answer's logit most, and by how much."""
    heads = [head for head in run.model.heads if head.layer == layer]
    base, patched = run.evaluate([Replace(frozenset((h, p) for p in run.examples.positions)) for h in heads], run)
    differences = (patched.logit - base.logit).abs().max(1).values.nan_to_num(torch.inf)
    return heads[differences.argmax()], differences.max().item()


def zero_patch_differences(run: Run) -> list[float]:
    """The same with the layer's outputs set to zero; 0: edits do not arrive."""
    model, tokens = run.model, run.examples.input_ids.shape[1]
    return _changes(run, torch.zeros(len(model.layers), tokens, model.heads_per_layer, model.head_dim))


def _changes(run: Run, source: Run | Tensor) -> list[float]:
    nodes = [
        {(h, p) for h in run.model.heads if h.layer == i for p in run.examples.positions}
        for i in range(len(run.model.layers))
    ]
    base, patched = run.evaluate([Replace(frozenset(layer)) for layer in nodes], source)
    return (patched.logit - base.logit).abs().max(1).values.tolist()
