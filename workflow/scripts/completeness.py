"""Rule completeness: a model's own circuit and the whole model without the same heads (paper, appendix C)."""

from typing import TYPE_CHECKING

import pandas as pd
from safetensors.torch import load_file

from mechdiff.circuits import Circuit
from mechdiff.common.progress import progress
from mechdiff.common.seeds import stream
from mechdiff.engine.examples import clean_examples, with_scenes
from mechdiff.engine.run import Run
from mechdiff.experiments.completeness import completeness, knocked_out
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, name = snakemake.params, snakemake.wildcards.model
        table = pd.read_parquet(snakemake.input.evaluation)
        means, circuit = load_file(snakemake.input.means)["means"], Circuit.read(snakemake.input.circuit)
        run = Run(open_model(Checkpoint.from_params(p.model)), clean_examples(table), p.memory)
        sets = knocked_out(circuit, p.random_subsets, stream(p.seed, "completeness", name))
        with progress(f"{name}: completeness", 2 * len(sets) * len(table), "rows") as bar:
            found = completeness(run, means, circuit, sets, bar.update)
        with_scenes(found, table).to_parquet(snakemake.output.correct, index=False)
