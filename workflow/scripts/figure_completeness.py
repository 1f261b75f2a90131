"""Rule figure_completeness: circuits against whole models without the same heads (paper, Figures A3, A4 and A6)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.provenance.records import job
from mechdiff.report.figures.completeness import completeness_figure
from mechdiff.report.figures.style import nothing_figure, save
from mechdiff.report.tables.writing import evaluated, most, write_caption

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, points = snakemake.params, pd.read_parquet(snakemake.input.points)
        table = evaluated(pd.read_parquet(snakemake.input.table))
        figure = completeness_figure(points, table) if len(points) else nothing_figure("no circuit")
        caption = (
            "Figures A3, A4 and A6: completeness of each model's own circuit. A point is a set K of its heads: a"
            " random half or a whole group; across, the circuit's accuracy without K, up, the whole model's; bars: 95"
            f" % interval over n = {most(points['n'])} examples, resampled by scene. On the dashed line the circuit is"
            f" complete; above it heads outside the circuit stand in for K. Seed {p.seed}."
        )
        save(figure, snakemake.output.svg, snakemake.output.png)
        write_caption(caption, snakemake.output.caption)
