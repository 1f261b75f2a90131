"""Rule check_model: before any experiment, is this model read correctly and comparable with its base?"""

import json
from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.checkpoints import Checkpoint
from mechdiff.model_check import check_model
from mechdiff.provenance import job, write_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, prompts = snakemake.params, pd.read_parquet(snakemake.input.prompts)
        model = Checkpoint.from_params(p.model)
        found = check_model(model, prompts, p.tolerance, chance=p.chance, least=p.least, memory=p.memory)
        write_text(snakemake.output.check, json.dumps(found, indent=2) + "\n")
