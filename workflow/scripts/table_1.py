"""Rule table_1: the base circuit in every model (paper, Table 1)."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.heads import Circuit
from mechdiff.provenance import job
from mechdiff.tables import PLANTED, print_table_1, table_1, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        evaluations = {Path(file).stem: pd.read_parquet(file) for file in snakemake.input.evaluations}
        exact = table_1(evaluations, p.fine_tuned_on, p.resamples, p.seed)
        circuit = Circuit.read(snakemake.input.circuit)
        draws = next(iter(evaluations.values())).query("condition == 'random'")["draw"].nunique()
        caption = (
            f"Table 1: the entity-tracking circuit found in {p.base} ({len(circuit)} heads), unchanged, in every model."
            f" Accuracy over n = {exact['n'].iloc[0]} examples and faithfulness F(C)/F(M), each with its 95 % interval"
            f" over resampled scenes; random circuits: mean of {draws} draws, which the interval takes as given."
            f" Chance is 1/{p.boxes} = {1 / p.boxes:.2f}. Seed {p.seed}."
        )
        caption += PLANTED if p.planted else ""
        write_table(exact, print_table_1(exact), caption, snakemake.output)
