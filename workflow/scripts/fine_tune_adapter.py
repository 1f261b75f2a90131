"""Rule fine_tune_adapter: a member of the default family, a LoRA adapter on the base."""

from pathlib import Path
from typing import TYPE_CHECKING

from mechdiff.family.files import family_task, read_family, save_adapter
from mechdiff.family.fine_tune import fine_tune, member_settings
from mechdiff.loading import open_model
from mechdiff.provenance import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        family, wildcards = read_family(snakemake.input.family), snakemake.wildcards
        tokenizer, task = family_task(family, snakemake.input.objects)
        folder = Path(snakemake.input.config).parent
        base = open_model("mini-llama", folder).network
        member = fine_tune(base, member_settings(family, wildcards.member), tokenizer, task, int(wildcards.seed))
        save_adapter(member, folder, Path(snakemake.output.config).parent)
