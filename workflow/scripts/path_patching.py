"""Rule path_patching: score every head as a sender to one group's receivers (paper, section 4.1)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.checkpoints import Checkpoint
from mechdiff.columns import not_evaluated
from mechdiff.engine.run import Run
from mechdiff.examples import clean_examples, noise_examples
from mechdiff.heads import Position
from mechdiff.loading import open_model
from mechdiff.path_patching import change_table, receiver_heads, relative_changes, score_table
from mechdiff.progress import progress
from mechdiff.provenance import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, name, group = snakemake.params, snakemake.wildcards.model, snakemake.wildcards.group
        table, changes = pd.read_parquet(snakemake.input.discovery), {}
        if not not_evaluated(snakemake.input.check):
            receivers = None
            if p.receivers is not None:
                receivers = receiver_heads(pd.read_parquet(snakemake.input.receivers), p.receivers)
            model = open_model(Checkpoint.from_params(p.model))
            clean, noise = (Run(model, examples(table), p.memory) for examples in (clean_examples, noise_examples))
            with progress(f"{name}: path patching, group {group}", len(model.heads) * len(table), "rows") as bar:
                changes = relative_changes(clean, noise, Position(p.position), receivers, p.via, bar.update)
        change_table(changes).to_parquet(snakemake.output.changes, index=False)
        score_table(name, group, changes).to_parquet(snakemake.output.scores, index=False)
