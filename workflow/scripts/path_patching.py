"""Rule path_patching: score every head as a sender to one group's receivers (paper, section 4.1)."""

from typing import TYPE_CHECKING

import pandas as pd
import torch

from mechdiff.circuits import Head, Position
from mechdiff.common.progress import progress
from mechdiff.engine.examples import clean_examples, noise_examples
from mechdiff.engine.run import Run
from mechdiff.experiments.columns import not_evaluated, read_shards, rounding
from mechdiff.experiments.path_patching import change_table, relative_changes
from mechdiff.experiments.ranking import at_rounding, receiver_heads, score_table
from mechdiff.experiments.shards import blocks
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, w = snakemake.params, snakemake.wildcards
        table, changes = pd.read_parquet(snakemake.input.discovery), {}
        some, receivers = blocks(len(table), int(w.shard), p.shards), None
        rows = sum(block.stop - block.start for block in some)
        if p.receivers is not None:
            (into,) = read_shards([w.group], snakemake.input.receivers).values()
            receivers = receiver_heads(score_table(w.model, w.group, into), p.receivers)
            if at_rounding(into, rounding(snakemake.input.check)):
                receivers = []
        if receivers == []:
            changes = dict.fromkeys(map(Head.parse, into), torch.zeros(rows, dtype=torch.float64))
        elif not not_evaluated(snakemake.input.check):
            model = open_model(Checkpoint.from_params(p.model))
            clean, noise = (Run(model, examples(table), p.memory) for examples in (clean_examples, noise_examples))
            with progress(f"{w.model}: path patching, group {w.group}", len(model.heads) * rows, "rows") as bar:
                changes = relative_changes(clean, noise, Position(p.position), receivers, p.via, some, bar.update)
        change_table(changes).to_parquet(snakemake.output.changes, index=False)
