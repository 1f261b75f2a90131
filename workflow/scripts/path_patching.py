"""Rule path_patching: score every head as a sender to one group's receivers (paper, section 4.1)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.examples import clean_examples, noise_examples
from mechdiff.heads import Head, Position
from mechdiff.models import open_model
from mechdiff.path_patching import receiver_heads, relative_changes, score_table
from mechdiff.progress import progress
from mechdiff.provenance import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, name, group = snakemake.params, snakemake.wildcards.model, snakemake.wildcards.group
        table = pd.read_parquet(snakemake.input.discovery)
        clean, noise = clean_examples(table), noise_examples(table)
        receivers = None
        if p.receivers is not None:
            receivers = receiver_heads(pd.read_parquet(snakemake.input.receivers), p.receivers)
        model = open_model(name, p.path, p.adapter_on)
        with progress(f"{name}: path patching, group {group}", len(model.heads) * len(clean), "rows") as bar:

            def done(head: Head, rows: int) -> None:
                bar.set_postfix_str(f"layer {head.layer}", refresh=False)
                bar.update(rows)

            changes = relative_changes(model, clean, noise, Position(p.position), receivers, p.via, p.batch_size, done)
        score_table(name, group, changes).to_parquet(snakemake.output.scores, index=False)
