"""Rule check_model: before any experiment, is this model read correctly and comparable with its base?"""

import json
import sys
from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.common.files import write_text
from mechdiff.experiments.model_check import PLAIN, check_model
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.provenance.records import job

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake) as notes:
        p, prompts = snakemake.params, pd.read_parquet(snakemake.input.prompts)
        model = Checkpoint.from_params(p.model)
        found = check_model(model, prompts, p.tolerance, chance=p.chance, least=p.least, memory=p.memory)
        if found["computed"] == PLAIN:
            kind = "is of a family that the engine is not tested on: the same numbers, about a hundred times slower"
            print(f"mechdiff: model {model.name!r} {kind} ({PLAIN})", file=sys.stderr)
        notes.update(found)
        write_text(snakemake.output.check, json.dumps(found, indent=2) + "\n")
