"""Rule seal_run: seal the records of every job behind the tables in one manifest."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mechdiff.provenance import build_manifest, job, job_chain, write_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        run = str(Path(snakemake.output.manifest).parent)
        manifest = build_manifest(run, job_chain(run, snakemake.input.tables))
        write_text(snakemake.output.manifest, json.dumps(manifest, indent=2, sort_keys=True) + "\n")
