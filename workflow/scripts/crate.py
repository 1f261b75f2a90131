"""Rule crate: the run as a Workflow Run RO-Crate, from the records of its jobs."""

from pathlib import Path
from typing import TYPE_CHECKING

from mechdiff.crate import describe
from mechdiff.crate_files import gather
from mechdiff.provenance import job, read_record, write_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        run = str(Path(snakemake.output.metadata).parent)
        records = {path: read_record(path) for path in snakemake.input.records}
        gather(run, records, snakemake.params.config, sources=Path(snakemake.scriptdir).resolve().parents[1])
        write_text(snakemake.output.metadata, describe(run, records, snakemake.params.config))
