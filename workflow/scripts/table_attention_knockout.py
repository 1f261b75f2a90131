"""Rule table_attention_knockout: accuracy with an edge blocked from each layer up (paper, Figures A1 and A2)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.experiments.columns import not_evaluated, read_each
from mechdiff.provenance.records import job
from mechdiff.report.tables.functions import knockout_table
from mechdiff.report.tables.writing import INTERVALS, most, noted, rounded, with_interval, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        found = read_each(pd.read_parquet, p.models, snakemake.input.found)
        exact = knockout_table(found, p.resamples, p.seed)
        reasons = read_each(not_evaluated, p.models, snakemake.input.checks)
        exact = noted(exact, "model", reasons)
        printed = exact[["model", "query", "key", "first_layer", "model_accuracy"]].assign(
            accuracy=[with_interval(row, "accuracy", "low", "high") for _, row in exact.iterrows()]
        )
        caption = (
            "Data of Figures A1 and A2: accuracy when, from a layer (counted from 1) up, no head attends from the query"
            f" position to the key position. n = {most(exact['n'])} examples. Seed {p.seed}."
        )
        write_table(exact, rounded(printed, ["model_accuracy"]), caption + INTERVALS, snakemake.output)
