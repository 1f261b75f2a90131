"""Rule check_model: before any experiment, is this model read correctly and comparable with its base?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from mechdiff.checkpoints import TOKENIZER, read_shape, read_tokenizer
from mechdiff.errors import InputError
from mechdiff.examples import clean_examples
from mechdiff.models import open_model
from mechdiff.provenance import job, write_text
from mechdiff.reference import null_patch_difference

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

TOLERANCE = 1e-5  # logits, float32


def check(name: str, path: str, base_path: Path, table: pd.DataFrame, batch_size: int) -> dict:
    """Shape, tokenizer and null patch of one model; InputError on the first that is not right."""
    shape, wanted = read_shape(path), read_shape(base_path)
    if shape != wanted:
        raise InputError(f"models.{name}.path: {path} has shape {shape}; allowed: that of its base, {wanted}")
    if (Path(path) / TOKENIZER).exists():
        tokenizer = read_tokenizer(path)
        for prompt, ids in zip(table["prompt"], table["input_ids"], strict=True):
            if tokenizer.encode(prompt).ids != list(ids):
                raise InputError(f"{path}/{TOKENIZER}: does not give the base's tokens for {prompt!r}")
    differences = null_patch_difference(
        open_model(name, path), next(clean_examples(table).batches(batch_size)).input_ids
    )
    for layer, difference in enumerate(differences):
        if not difference <= TOLERANCE:
            raise InputError(
                f"{path}: a null patch in layer {layer} changes a logit by {difference:g}, over {TOLERANCE:g}"
            )
    return {"shape": str(shape), "null_patch": {"largest_by_layer": differences, "tolerance": TOLERANCE}}


if __name__ == "__main__":
    with job(snakemake):
        rows = pd.read_parquet(snakemake.input.evaluation)
        p, base_path = snakemake.params, Path(snakemake.input.base_config).parent
        found = check(snakemake.wildcards.model, p.path, base_path, rows, p.batch_size)
        write_text(snakemake.output.check, json.dumps(found, indent=2) + "\n")
