"""Rule table_planted: planted heads against the heads that were found. Nothing else reads what was planted."""

from typing import TYPE_CHECKING

from mechdiff.circuits import Circuit
from mechdiff.provenance.records import job
from mechdiff.report.tables.circuits import planted_table
from mechdiff.report.tables.writing import rounded, write_table
from mechdiff.running.config import read_planted

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        planted = read_planted(snakemake.input.family)
        found = {}
        for stage, files in (("candidates", snakemake.input.candidates), ("circuit", snakemake.input.circuits)):
            for model, file in zip(snakemake.params.models, files, strict=True):
                found[model, stage] = Circuit.read(file)
        table = planted_table(planted, found).sort_values(["circuit", "stage"], kind="stable")
        caption = (
            "Planted against found heads, per circuit and group, before (candidates) and after minimality (circuit)."
            " Recall: share of planted heads that were found; precision: share of found heads that were planted."
        )
        write_table(table, rounded(table, ["precision", "recall"]), caption, snakemake.output)
