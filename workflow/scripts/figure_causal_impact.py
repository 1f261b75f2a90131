"""Rule figure_causal_impact: scores of each head before and after fine-tuning (paper, Figures A5 and A7)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.provenance.records import job
from mechdiff.report.figures.impact import causal_impact_figure
from mechdiff.report.figures.style import nothing_figure, save
from mechdiff.report.tables.writing import write_caption

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, table = snakemake.params, pd.read_parquet(snakemake.input.table)
        figure = causal_impact_figure(table) if len(table) else nothing_figure("no circuit")
        caption = (
            "Figures A5 and A7: absolute path-patching scores of the heads of two circuits, in the fine-tuned model"
            f" (up) and in {p.base} (down), strongest first, with the group they are in; coloured: in that model's own"
            f" circuit. n = {p.rows} examples. A mechanism that is kept has its long bars coloured on both sides. Seed"
            f" {p.seed}."
        )
        save(figure, snakemake.output.svg, snakemake.output.png)
        write_caption(caption, snakemake.output.caption)
