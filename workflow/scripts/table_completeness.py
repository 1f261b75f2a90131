"""Rule table_completeness: circuits and whole models without the same heads (paper, Tables A1, A4 and A8)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.experiments.columns import not_evaluated, read_each
from mechdiff.provenance.records import job
from mechdiff.report.published import of_models, published
from mechdiff.report.tables.circuits import completeness_points, completeness_table, print_completeness
from mechdiff.report.tables.writing import INTERVALS, most, noted, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        found = read_each(pd.read_parquet, p.models, snakemake.input.found)
        points = completeness_points(found, p.resamples, p.seed)
        points.to_parquet(snakemake.output.points, index=False)
        paper = of_models(published(snakemake.input.paper)["completeness"], p.paper)
        exact = completeness_table(found, points, p.resamples, p.seed, paper)
        reasons = read_each(not_evaluated, p.models, snakemake.input.checks)
        exact = noted(exact, "circuit_of", reasons)
        caption = (
            "Tables A1, A4 and A8: completeness of each model's own circuit. Accuracy of the whole model F(M\\K) and"
            " of the circuit F(C\\K) without the same heads K, and incompleteness, their absolute difference; 0:"
            f" nothing outside the circuit stands in for K. n = {most(points['n'])} examples; random halves: mean and"
            " standard deviation over the sets. Heads and positions outside the circuit are ablated in C\\K and"
            f" intact in M\\K. Seed {p.seed}."
        )
        write_table(exact, print_completeness(exact, p.names), caption + INTERVALS, snakemake.output)
