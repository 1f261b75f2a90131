"""Rule crate: the run as a Workflow Run RO-Crate, from the records of its jobs."""

from pathlib import Path
from typing import TYPE_CHECKING

from mechdiff.common.files import write_text
from mechdiff.provenance.crate import describe
from mechdiff.provenance.crate_files import gather
from mechdiff.provenance.records import job, read_record

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        records = {path: read_record(path) for path in snakemake.input.records}
        of_run = (snakemake.params.run, records, snakemake.params.config)
        gathered = gather(*of_run, place=Path(snakemake.output.metadata).parent)
        write_text(snakemake.output.metadata, describe(*of_run, gathered))
