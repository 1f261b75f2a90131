"""Rule table_examples: one example of each desideratum (paper, Figure 2, Tables A12 and A13)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.common.reading import few
from mechdiff.experiments.columns import read_each
from mechdiff.provenance.records import job, read_record
from mechdiff.report.tables.functions import examples_table
from mechdiff.report.tables.writing import write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        tables = read_each(pd.read_parquet, p.desiderata, snakemake.input.desiderata)
        exact = examples_table(tables)
        words = read_record(snakemake.input.words)["notes"]["words"]
        caption = (
            "Tables A12 and A13: the first row of each desideratum, as this run used it. Heads that carry what it"
            " names, patched from the alternate into the original, turn the original's answer into the target."
            " All prompts of this run are written from words that are one token in place with the base's tokenizer:"
            f" {words['objects']} objects and {words['labels']} labels; dropped, because they are not:"
            f" {few(words['dropped'])}. Seed {p.seed}."
        )
        write_table(exact, exact.drop(columns="desideratum"), caption, snakemake.output)
