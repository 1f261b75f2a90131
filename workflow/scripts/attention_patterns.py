"""Rule attention_patterns: where the strongest head of each group looks (paper, Figure 1)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.engine.examples import clean_examples
from mechdiff.experiments.attention_patterns import circuit_attention
from mechdiff.models.checkpoints import Checkpoint, read_tokenizer, tokenizer_folder
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, circuit = snakemake.params, Circuit.read(snakemake.input.circuit)
        table = pd.read_parquet(snakemake.input.evaluation)
        checkpoint = Checkpoint.from_params(p.model)
        model, tokens = open_model(checkpoint), read_tokenizer(tokenizer_folder(checkpoint))
        found = circuit_attention(model, clean_examples(table.head(1)), circuit, tokens)
        found.to_parquet(snakemake.output.patterns, index=False)
