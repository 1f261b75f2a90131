"""Rule attention_knockout: accuracy with an edge blocked from each layer up (paper, appendix A)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.common.progress import progress
from mechdiff.engine.examples import clean_examples, with_scenes
from mechdiff.engine.run import Run
from mechdiff.experiments.columns import not_evaluated
from mechdiff.experiments.knockout import COLUMNS, EDGES, attention_knockout
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, name = snakemake.params, snakemake.wildcards.model
        table, found = pd.read_parquet(snakemake.input.evaluation), pd.DataFrame(columns=COLUMNS)
        if not not_evaluated(snakemake.input.check):
            run = Run(open_model(Checkpoint.from_params(p.model)), clean_examples(table), p.memory)
            edges = sum(map(len, EDGES.values()))
            with progress(f"{name}: knockout", edges * len(run.model.layers) * len(table), "rows") as bar:
                found = attention_knockout(run, bar.update)
        with_scenes(found, table).to_parquet(snakemake.output.correct, index=False)
