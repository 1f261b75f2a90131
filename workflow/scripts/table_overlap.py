"""Rule table_overlap: each fine-tuned model's circuit against the base's (paper, Tables A6 and A10)."""

from typing import TYPE_CHECKING

from mechdiff.circuits import Circuit
from mechdiff.experiments.columns import not_evaluated, read_each
from mechdiff.provenance.records import job
from mechdiff.report.published import of_models, published
from mechdiff.report.tables.circuits import overlap_table, unreached
from mechdiff.report.tables.writing import noted, rounded, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        circuits = read_each(Circuit.read, p.models, snakemake.input.circuits)
        paper = of_models(published(snakemake.input.paper)["overlap"], p.paper)
        reasons = read_each(not_evaluated, p.models, snakemake.input.checks)
        exact = noted(overlap_table(p.base, circuits, p.names, paper), "circuit_of", reasons)
        caption = (
            f"Tables A6 and A10: heads of {p.base}'s circuit and of each fine-tuned model's own, per group. Precision:"
            " share of the base's heads that the other has too; recall: share of the other's that the base has."
        )
        write_table(exact, rounded(exact, ["precision", "recall"]), caption + unreached(circuits), snakemake.output)
