"""Rule table_heads: the heads of each model's circuit per group (paper, Tables A2, A3 and A7)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.experiments.columns import not_evaluated, read_each
from mechdiff.provenance.records import job
from mechdiff.report.published import of_models, published
from mechdiff.report.tables.circuits import heads_table
from mechdiff.report.tables.writing import PLANTED, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, inputs = snakemake.params, snakemake.input

        exact = heads_table(
            p.models,
            circuits=read_each(Circuit.read, p.models, inputs.circuits),
            candidates=read_each(Circuit.read, p.models, inputs.candidates),
            functional=read_each(Circuit.read, p.models, inputs.functional),
            stability=read_each(pd.read_parquet, p.models, inputs.stability),
            plan=p.plan,
            share=p.share,
            reasons=read_each(not_evaluated, p.models, inputs.checks),
            published=of_models(published(inputs.paper)["heads"], p.paper),
        )
        caption = (
            "Tables A2, A3 and A7: heads of each model's own circuit after minimality, strongest first; candidates:"
            " before minimality; functional: those that DCM finds for the group's function. A head marked ? is"
            f" unstable: near the cut, and chosen in less than {p.share:.0%} of {p.resamples} discoveries with"
            f" resampled scenes and the same receivers. Seed {p.seed}."
        )
        write_table(exact, exact, caption + (PLANTED if p.planted else ""), snakemake.output)
