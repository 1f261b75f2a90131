"""Rule fine_tune: a member of the default family, every weight of the base trained on."""

from pathlib import Path
from typing import TYPE_CHECKING

from mechdiff.family.files import family_task, read_family, save_model
from mechdiff.family.fine_tune import fine_tune, member_settings
from mechdiff.loading import open_model
from mechdiff.provenance import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        family, wildcards = read_family(snakemake.input.family), snakemake.wildcards
        tokenizer, task = family_task(family, snakemake.input.objects)
        base = open_model("mini-llama", Path(snakemake.input.config).parent).network.requires_grad_(True)
        member = fine_tune(base, member_settings(family, wildcards.member), tokenizer, task, int(wildcards.seed))
        save_model(member, tokenizer, Path(snakemake.output.config).parent)
