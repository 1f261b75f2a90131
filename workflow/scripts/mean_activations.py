"""Rule mean_activations: the mean output of each head at each position, for mean ablation (paper, section 4.2)."""

from typing import TYPE_CHECKING

import pandas as pd
from safetensors.torch import save_file

from mechdiff.engine.examples import clean_examples
from mechdiff.engine.run import Run
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        model = open_model(Checkpoint.from_params(snakemake.params.model))
        examples = clean_examples(pd.read_parquet(snakemake.input.means))
        save_file({"means": Run(model, examples, snakemake.params.memory).mean_outputs()}, snakemake.output.means)
