"""Rule seal_run: seal the records of every job of the run in one manifest."""

from typing import TYPE_CHECKING

from mechdiff.common.files import write_text
from mechdiff.provenance.records import build_manifest, job, manifest_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        manifest = build_manifest(snakemake.params.run, snakemake.input.records)
        write_text(snakemake.output.manifest, manifest_text(manifest))
