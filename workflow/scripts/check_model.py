"""Rule check_model: before any experiment, is this model read correctly and comparable with its base?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.model_check import check_model
from mechdiff.provenance import job, write_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        p, base = snakemake.params, str(Path(snakemake.input.base_config).parent)
        prompts = pd.read_parquet(snakemake.input.prompts)
        found = check_model(
            snakemake.wildcards.model,
            p.path,
            p.adapter_on,
            base,
            prompts,
            tolerance=p.tolerance,
            chance=p.chance,
            least=p.least,
            memory=p.memory,
        )
        write_text(snakemake.output.check, json.dumps(found, indent=2) + "\n")
