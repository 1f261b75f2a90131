"""Before any experiment on a model: is it comparable with its base, and do edits do what they should?

1. It has its base's shape, so that heads can be compared by name.
2. Its tokenizer gives the base's tokens for the run's prompts, and the model has an embedding for each.
3. A null patch, each layer's clean outputs patched into the clean run, leaves every logit as it is.
4. With each layer's outputs at zero, some logit changes: edits arrive.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from mechdiff.checkpoints import TOKENIZER, read_shape, read_tokenizer, require_same_shape
from mechdiff.errors import InputError
from mechdiff.examples import clean_examples
from mechdiff.models import open_model
from mechdiff.reference import null_patch_difference, zero_patch_difference


def check_model(
    name: str, path: str, adapter_on: str | None, base: str, prompts: pd.DataFrame, tolerance: float, batch_size: int
) -> dict[str, Any]:
    """What was found; InputError on the first thing that is not right.

    adapter_on: the base's folder for an adapter, None for a whole checkpoint; tolerance: of the null patch [logit].
    """
    if adapter_on is None:
        require_same_shape(name, path, base)
    if (Path(path) / TOKENIZER).exists():
        tokenizer = read_tokenizer(path)
        for prompt, ids in zip(prompts["prompt"], prompts["input_ids"], strict=True):
            if tokenizer.encode(prompt).ids != list(ids):
                raise InputError(f"{path}/{TOKENIZER}: does not give the base's tokens for {prompt!r}")
    examples, vocabulary = clean_examples(prompts), read_shape(base).vocabulary
    if (largest := int(examples.input_ids.max())) >= vocabulary:
        raise InputError(f"{base}/{TOKENIZER}: gives id {largest}, the model knows ids below {vocabulary}")
    model = open_model(name, path, adapter_on)
    batch = next(examples.batches(batch_size)).input_ids
    differences = null_patch_difference(model, batch)
    for layer, difference in enumerate(differences):
        if not difference <= tolerance:
            raise InputError(
                f"{path}: a null patch in layer {layer} changes a logit by {difference:g}, over {tolerance:g}"
            )
    for layer, effect in enumerate(zero_patch_difference(model, batch)):
        if not effect > tolerance:
            raise InputError(f"{path}: with layer {layer} silenced no logit changes by more than {tolerance:g}")
    return {"shape": str(read_shape(base)), "null_patch": {"largest_by_layer": differences, "tolerance": tolerance}}
