"""Rule train_base: the base of the default family, with its mechanism planted, from one seed."""

from pathlib import Path
from typing import TYPE_CHECKING

from mechdiff.organisms.organism import make_base
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        inputs, folder = snakemake.input, Path(snakemake.output.config).parent
        make_base(inputs.family, inputs.objects, int(snakemake.wildcards.seed), folder)
