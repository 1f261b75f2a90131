"""Rule figure_knockout: attention knockout from one position (paper, Figures A1 and A2)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.provenance.records import job
from mechdiff.report.figures.knockout import knockout_figure
from mechdiff.report.figures.style import nothing_figure, save
from mechdiff.report.tables.writing import evaluated, most, write_caption

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, outputs, found = snakemake.params, snakemake.output, evaluated(pd.read_parquet(snakemake.input.table))
        for query, number in p.numbers.items():
            table = found[found["query"] == query]
            figure = knockout_figure(table) if len(table) else nothing_figure()
            caption = (
                f"Figure {number}: accuracy when, from a layer up, no head attends from the {query.replace('_', ' ')}"
                " position to another; bands: 95 % interval over resampled scenes. Where a line lies below the dashed"
                f" one, the untouched model, those layers need the edge. n = {most(table['n'])} examples. Seed"
                f" {p.seed}."
            )
            save(figure, outputs[f"{query}_svg"], outputs[f"{query}_png"])
            write_caption(caption, outputs[f"{query}_caption"])
