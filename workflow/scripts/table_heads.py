"""Rule table_heads: the heads of each model's circuit per group (paper, Tables A2, A3, A7)."""

from typing import TYPE_CHECKING

from mechdiff.heads import Circuit
from mechdiff.provenance import job
from mechdiff.tables import PLANTED, table_heads, write_table

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        circuits = dict(zip(p.models, map(Circuit.read, snakemake.input.circuits), strict=True))
        candidates = dict(zip(p.models, map(Circuit.read, snakemake.input.candidates), strict=True))
        table = table_heads(circuits, candidates, p.names)
        caption = "Heads of each model's own circuit after minimality, strongest first; candidates: before minimality."
        caption += PLANTED if p.planted else ""
        write_table(table, table, caption, snakemake.output)
