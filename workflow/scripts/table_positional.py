"""Rule table_positional: what the base circuit's position heads mean by position (paper, Table A11)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.provenance.records import job
from mechdiff.report.published import BASE, published
from mechdiff.report.tables.functions import positional_table
from mechdiff.report.tables.writing import INTERVALS, most, rounded, with_interval, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        paper = published(snakemake.input.paper)["positional"] if p.paper.get(p.base) == BASE else {}
        exact = positional_table(pd.read_parquet(snakemake.input.found), p.resamples, p.seed, paper)
        printed = exact[["number", "meaning", "heads", "sets", "sd", "variance"]].assign(
            accuracy=[with_interval(row, "accuracy", "low", "high") for _, row in exact.iterrows()]
        )
        caption = (
            f"Table A11: the position heads of group {p.group} of {p.base}'s circuit, patched from alternates that are"
            " written in eleven other ways; share of rows whose answer becomes the target, over"
            f" {most(exact['sets'])} test sets, n = {most(exact['n'])} in all; sd and variance: over the sets."
            f" An answer drawn from the original's objects: {1 / p.boxes:.2f}; from all but its own:"
            f" {1 / (p.boxes - 1):.2f}. Seed {p.seed}."
        )
        write_table(exact, rounded(rounded(printed, ["variance"], 5), ["sd"], 3), caption + INTERVALS, snakemake.output)
