"""Rule table_causal_impact: scores of circuits' heads before and after fine-tuning (paper, Figures A5 and A7)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.experiments.columns import read_each
from mechdiff.provenance.records import job
from mechdiff.report.tables.circuits import causal_impact_table
from mechdiff.report.tables.writing import rounded, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        circuits = read_each(Circuit.read, p.models, snakemake.input.circuits)
        scores = read_each(pd.read_parquet, p.models, snakemake.input.scores)
        exact = causal_impact_table(p.base, circuits, scores)
        caption = (
            f"Data of Figures A5 and A7: absolute path-patching scores of the heads of {p.base}'s circuit and of each"
            " fine-tuned model's own, in both models. A score is the mean relative change of the answer's probability."
        )
        write_table(exact, rounded(exact, ["base_score", "other_score"], 4), caption, snakemake.output)
