"""Rule path_patching: score every head as a sender to one group's receivers (paper, section 4.1)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.checkpoints import Checkpoint
from mechdiff.columns import not_evaluated, read_shards
from mechdiff.engine.run import Run
from mechdiff.examples import clean_examples, noise_examples
from mechdiff.heads import Position
from mechdiff.loading import open_model
from mechdiff.path_patching import change_table, receiver_heads, relative_changes, score_table
from mechdiff.progress import progress
from mechdiff.provenance import job
from mechdiff.shards import blocks

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, w = snakemake.params, snakemake.wildcards
        table, changes = pd.read_parquet(snakemake.input.discovery), {}
        if not not_evaluated(snakemake.input.check):
            receivers = None
            if p.receivers is not None:
                (into,) = read_shards([w.group], snakemake.input.receivers).values()
                receivers = receiver_heads(score_table(w.model, w.group, into), p.receivers)
            model = open_model(Checkpoint.from_params(p.model))
            clean, noise = (Run(model, examples(table), p.memory) for examples in (clean_examples, noise_examples))
            some = blocks(len(table), int(w.shard), p.shards)
            rows = len(model.heads) * sum(block.stop - block.start for block in some)
            with progress(f"{w.model}: path patching, group {w.group}", rows, "rows") as bar:
                changes = relative_changes(clean, noise, Position(p.position), receivers, p.via, some, bar.update)
        change_table(changes).to_parquet(snakemake.output.changes, index=False)
