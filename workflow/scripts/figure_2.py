"""Rule figure_2: the desiderata, with the run's own prompts (paper, Figure 2)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.experiments.columns import read_each
from mechdiff.provenance.records import job
from mechdiff.report.figures.desiderata import desiderata_figure, example_rows
from mechdiff.report.figures.style import save
from mechdiff.report.tables.writing import write_caption

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        tables = read_each(pd.read_parquet, p.desiderata, snakemake.input.desiderata)
        figure = desiderata_figure(example_rows(tables))
        caption = (
            "Figure 2: the desiderata, each with the first of this run's own rows. Heads that carry what a desideratum"
            " names, patched from the alternate into the original run, make the model answer the target. In blue what"
            f" the two prompts' queries are about. Seed {p.seed}."
        )
        save(figure, snakemake.output.svg, snakemake.output.png)
        write_caption(caption, snakemake.output.caption)
