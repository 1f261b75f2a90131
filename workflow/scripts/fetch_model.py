"""Rule fetch_model: the files of a model of the hub at its pinned commit, in a folder of their own."""

from typing import TYPE_CHECKING

from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.hub import fetch
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, folder = snakemake.params, snakemake.output.folder
        fetch(Checkpoint(p.name, folder, **p.model), p.revision, folder)
