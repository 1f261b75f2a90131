"""Rule fine_tune_adapter: a member of the default family, a LoRA adapter on the base."""

from pathlib import Path
from typing import TYPE_CHECKING

from mechdiff.organisms.fine_tune import make_member
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        inputs, wildcards = snakemake.input, snakemake.wildcards
        base, folder = Path(inputs.config).parent, Path(snakemake.output.config).parent
        make_member(inputs.family, inputs.objects, wildcards.member, int(wildcards.seed), base, folder)
