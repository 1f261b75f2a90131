"""Rule table_1: the base circuit in every model (paper, Table 1)."""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.experiments.columns import not_evaluated, read_each
from mechdiff.provenance.records import job
from mechdiff.report.published import of_pairs, published
from mechdiff.report.tables.circuits import faithfulness_table, print_faithfulness, unreached
from mechdiff.report.tables.writing import PLANTED, most, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, inputs = snakemake.params, snakemake.input
        evaluations = {(p.base, Path(file).stem): pd.read_parquet(file) for file in inputs.evaluations}
        reasons = read_each(not_evaluated, p.fine_tuned_on, inputs.checks)
        paper = of_pairs(published(inputs.paper)["faithfulness"], p.paper)
        exact = faithfulness_table(evaluations, p.fine_tuned_on, reasons, p.resamples, p.seed, paper)
        draws = max(table.loc[table["condition"] == "random", "draw"].nunique() for table in evaluations.values())
        circuit = Circuit.read(inputs.circuit)
        caption = (
            f"Table 1: the entity-tracking circuit found in {p.base} ({len(circuit)} heads),"
            f" unchanged, in every model. Accuracy over n = {most(exact['n'])} examples and faithfulness F(C)/F(M),"
            f" each with its 95 % interval over resampled scenes; random circuits: mean of {draws} draws, which the"
            f" interval takes as given. Chance is 1/{p.boxes} = {1 / p.boxes:.2f}. Seed {p.seed}."
        )
        caption += unreached({p.base: circuit})
        caption += PLANTED if p.planted else ""
        write_table(exact, print_faithfulness(exact, with_circuit=False), caption, snakemake.output)
