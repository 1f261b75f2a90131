"""Rule figure_cmap_inputs: cross-model patching of queries, keys and values (paper, section 6)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.experiments.columns import FUNCTIONAL, read_each
from mechdiff.provenance.records import job
from mechdiff.report.figures.cmap import cmap_inputs_figure
from mechdiff.report.figures.style import nothing_figure, save
from mechdiff.report.tables.circuits import unreached
from mechdiff.report.tables.writing import evaluated, most, write_caption

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, table = snakemake.params, evaluated(pd.read_parquet(snakemake.input.table))
        table = table[table["heads"] == FUNCTIONAL]
        figure = cmap_inputs_figure(table) if len(table) else nothing_figure()
        caption = (
            "Cross-model patching by what is patched: functional heads give the donor's outputs, or attend with its"
            " queries, keys or values. Printed: the recipient's accuracy; colour: how far that is from its own. n ="
            f" {most(table['n'])} examples. With all three (qkv) a head gives the donor's output. Seed {p.seed}."
        )
        save(figure, snakemake.output.svg, snakemake.output.png)
        caption += unreached(read_each(Circuit.read, p.models, snakemake.input.circuits))
        write_caption(caption, snakemake.output.caption)
