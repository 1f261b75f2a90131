"""Rule figure_4: cross-model patching of outputs, both ways (paper, Figure 4)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.experiments.columns import read_each
from mechdiff.provenance.records import job
from mechdiff.report.figures.cmap import cmap_figure
from mechdiff.report.figures.style import nothing_figure, save
from mechdiff.report.tables.circuits import unreached
from mechdiff.report.tables.functions import outputs_only
from mechdiff.report.tables.writing import evaluated, most, write_caption

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, table = snakemake.params, outputs_only(evaluated(pd.read_parquet(snakemake.input.table)))
        figure = cmap_figure(table) if len(table) else nothing_figure()
        caption = (
            "Figure 4: in the recipient (right of the arrow) the functional heads of one group, or of all, give the"
            " donor's outputs on the same prompts; the heads are those of the fine-tuned model's circuit. Height: the"
            f" recipient's accuracy, with its 95 % interval over n = {most(table['n'])} examples, resampled by scene."
            " Dashed: the recipient alone, dash-dotted: the donor alone. A group that lifts the base brings the"
            f" improvement along. Seed {p.seed}."
        )
        save(figure, snakemake.output.svg, snakemake.output.png)
        caption += unreached(read_each(Circuit.read, p.models, snakemake.input.circuits))
        write_caption(caption, snakemake.output.caption)
