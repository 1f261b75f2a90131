"""Rule table_cmap: accuracy when heads give another model's outputs or see its inputs (paper, Figure 4)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.experiments.columns import not_evaluated, read_each
from mechdiff.provenance.records import job
from mechdiff.report.tables.functions import cmap_table
from mechdiff.report.tables.writing import INTERVALS, most, noted, rounded, with_interval, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        found = read_each(pd.read_parquet, p.models, snakemake.input.found)
        exact = cmap_table(found, p.names, p.resamples, p.seed)
        reasons = read_each(not_evaluated, p.all_models, snakemake.input.checks)
        exact = noted(exact, "circuit_of", reasons)
        kept = ["circuit_of", "donor", "recipient", "heads", "name", "part", "nodes"]
        printed = exact[[*kept, "recipient_accuracy", "donor_accuracy"]].assign(
            accuracy=[with_interval(row, "accuracy", "low", "high") for _, row in exact.iterrows()],
            gain=[with_interval(row, "gain") for _, row in exact.iterrows()],
        )
        caption = (
            "Cross-model activation patching: heads of a fine-tuned model's circuit give, in the recipient, the donor's"
            " outputs on the same prompt (part: output), or attend with the donor's queries, keys or values. Gain:"
            f" over the recipient's own accuracy, on the same scenes. n = {most(exact['n'])} examples. Seed {p.seed}."
        )
        printed = rounded(printed, ["recipient_accuracy", "donor_accuracy"])
        write_table(exact, printed, caption + INTERVALS, snakemake.output)
