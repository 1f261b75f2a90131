"""Rule train_base: the base of the default family, with its mechanism planted, from one seed."""

from pathlib import Path
from typing import TYPE_CHECKING

from mechdiff.family.files import family_task, read_family, save_model
from mechdiff.family.organism import train_base
from mechdiff.provenance import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        family = read_family(snakemake.input.family)
        tokenizer, task = family_task(family, snakemake.input.objects)
        base = train_base(family, tokenizer, task, int(snakemake.wildcards.seed))
        save_model(base.model.network, tokenizer, Path(snakemake.output.config).parent)
