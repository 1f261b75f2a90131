"""Rule positional_desiderata: what the base circuit's position heads mean by position (paper, appendix J)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.circuits import Circuit
from mechdiff.common.progress import progress
from mechdiff.experiments.activation_patching import COLUMNS, activation_patching
from mechdiff.experiments.dcm import Pairs
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.loading import open_model
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, found = snakemake.params, [pd.DataFrame(columns=COLUMNS)]
        functional = Circuit.read(snakemake.input.functional)
        heads = Circuit(tuple(group for group in functional.groups if group.name == p.group))
        if heads.groups:
            model = open_model(Checkpoint.from_params(p.model))
            tables = map(pd.read_parquet, snakemake.input.desiderata)
            with progress(f"{p.base}: positional desiderata", len(snakemake.input.desiderata), "desiderata") as bar:
                for table in tables:
                    found.append(activation_patching({p.base: heads}, Pairs.of(model, table, p.memory), table))
                    bar.update()
        pd.concat(found[1:] or found, ignore_index=True).to_parquet(snakemake.output.correct, index=False)
