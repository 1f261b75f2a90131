"""Rule figure_3: what functional heads carry, by model (paper, Figure 3)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.provenance.records import job
from mechdiff.report.figures.functionality import functions_caption, functions_figure
from mechdiff.report.figures.style import nothing_figure, save
from mechdiff.report.tables.circuits import unreached
from mechdiff.report.tables.writing import evaluated, write_caption

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, table = snakemake.params, evaluated(pd.read_parquet(snakemake.input.table))
        table = table[table["circuit_of"] == p.base]
        figure = functions_figure(table, 1 / p.boxes) if len(table) else nothing_figure()
        caption = functions_caption(f"Figure 3: the functional heads of {p.base}'s circuit", table, p.boxes, p.seed)
        save(figure, snakemake.output.svg, snakemake.output.png)
        caption += unreached({p.base: Circuit.read(snakemake.input.circuit)})
        write_caption(caption, snakemake.output.caption)
