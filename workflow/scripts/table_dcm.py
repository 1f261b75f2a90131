"""Rule table_dcm: the heads that masks find for each desideratum (paper, section 5.2 and appendix I)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.experiments.columns import not_evaluated, read_each
from mechdiff.provenance.records import job
from mechdiff.report.tables.circuits import unreached
from mechdiff.report.tables.functions import dcm_table
from mechdiff.report.tables.writing import INTERVALS, most, noted, with_interval, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, inputs = snakemake.params, snakemake.input
        tested = read_each(pd.read_parquet, p.models, inputs.tested)
        circuits = read_each(Circuit.read, p.models, inputs.circuits)
        sizes = {(model, g.name): len(g.heads) for model, circuit in circuits.items() for g in circuit.groups}
        exact = dcm_table(tested, p.names, sizes, p.resamples, p.seed)
        reasons = read_each(not_evaluated, p.models, inputs.checks)
        exact = noted(exact, "circuit_of", reasons)
        printed = exact[["circuit_of", "group", "name", "desideratum", "heads", "patched", "enumerated"]].assign(
            accuracy=[with_interval(row, "accuracy", "low", "high") for _, row in exact.iterrows()]
        )
        caption = (
            "Desiderata-based component masking: per circuit, in its own model, group and desideratum, how many of the"
            " group's heads the best mask patches, which, and the share of test rows whose answer becomes the target"
            f" (n = {most(exact['n'])}). λ: {', '.join(map(str, p.sparsity))}. Seed {p.seed}."
        )
        write_table(exact, printed, caption + INTERVALS + unreached(circuits), snakemake.output)
