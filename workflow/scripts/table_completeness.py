"""Rule table_completeness: circuits and whole models without the same heads (paper, Tables A1, A4 and A8)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.columns import not_evaluated
from mechdiff.provenance import job
from mechdiff.published import of_models, published
from mechdiff.tables.circuits import completeness_points, completeness_table, print_completeness
from mechdiff.tables.writing import INTERVALS, most, noted, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        found = {model: pd.read_parquet(f) for model, f in zip(p.models, snakemake.input.found, strict=True)}
        points = completeness_points(found, p.resamples, p.seed)
        paper = of_models(published(snakemake.input.paper)["completeness"], p.paper)
        exact = completeness_table(found, points, p.resamples, p.seed, paper)
        reasons = {model: not_evaluated(file) for model, file in zip(p.models, snakemake.input.checks, strict=True)}
        exact = noted(exact, "circuit_of", reasons)
        caption = (
            "Tables A1, A4 and A8: completeness of each model's own circuit. Accuracy of the whole model F(M\\K) and"
            " of the circuit F(C\\K) without the same heads K, and incompleteness, their absolute difference; 0:"
            f" nothing outside the circuit stands in for K. n = {most(points['n'])} examples; random halves: mean and"
            " standard deviation over the sets. Heads and positions outside the circuit are ablated in C\\K and"
            f" intact in M\\K. Seed {p.seed}."
        )
        write_table(exact, print_completeness(exact, p.names), caption + INTERVALS, snakemake.output)
