"""Rule table_own_circuits: each fine-tuned model's own circuit in every model (paper, Tables A5 and A9)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.experiments.columns import not_evaluated, read_each
from mechdiff.provenance.records import job
from mechdiff.report.published import of_pairs, published
from mechdiff.report.tables.circuits import faithfulness_table, print_faithfulness
from mechdiff.report.tables.writing import PLANTED, most, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, inputs = snakemake.params, snakemake.input
        evaluations = read_each(pd.read_parquet, map(tuple, p.pairs), inputs.evaluations)
        reasons = read_each(not_evaluated, p.fine_tuned_on, inputs.checks)
        paper = of_pairs(published(inputs.paper)["faithfulness"], p.paper)
        exact = faithfulness_table(evaluations, p.fine_tuned_on, reasons, p.resamples, p.seed, paper)
        caption = (
            "Tables A5 and A9: the circuit found in each fine-tuned model, unchanged, in every model. Accuracy over"
            f" n = {most(exact['n'])} examples and faithfulness F(C)/F(M), each with its 95 % interval over resampled"
            f" scenes. Above 1: ablating the other heads helps. Chance is {1 / p.boxes:.2f}. Seed {p.seed}."
        )
        caption += PLANTED if p.planted else ""
        write_table(exact, print_faithfulness(exact, with_circuit=True), caption, snakemake.output)
