"""Rule table_activation_patching: what functional heads carry, by circuit and model (paper, Figures 3, A8 and A9)."""

from typing import TYPE_CHECKING

from mechdiff.experiments.columns import not_evaluated, read_each, read_shards
from mechdiff.provenance.records import job
from mechdiff.report.tables.functions import activation_patching_table
from mechdiff.report.tables.writing import INTERVALS, most, noted, rounded, with_interval, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        found = read_shards(p.models, snakemake.input.found)
        exact = activation_patching_table(found, p.names, p.resamples, p.seed)
        reasons = read_each(not_evaluated, p.models, snakemake.input.checks)
        exact = noted(exact, "model", reasons)
        printed = exact[["circuit_of", "model", "group", "name", "desideratum", "heads", "sets", "sd"]].assign(
            accuracy=[with_interval(row, "accuracy", "low", "high") for _, row in exact.iterrows()]
        )
        caption = (
            "Data of Figures 3, A8 and A9: the functional heads of each circuit's groups patched from the alternate"
            " run, in every model; share of rows whose answer becomes the desideratum's target, over"
            f" {most(exact['sets'])} fresh test sets, n = {most(exact['n'])} in all; sd: over the sets. Seed {p.seed}."
        )
        write_table(exact, rounded(printed, ["sd"], 3), caption + INTERVALS, snakemake.output)
