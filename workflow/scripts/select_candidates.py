"""Rule select_candidates: the circuit before pruning, from the scores of every group (paper, section 4.1)."""

from typing import TYPE_CHECKING

import pandas as pd

from mechdiff.path_patching import Step, select_candidates
from mechdiff.provenance import job, write_text

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake


if __name__ == "__main__":
    with job(snakemake):
        plan = [Step.from_config(entry) for entry in snakemake.params.plan]
        scores = {s.group: pd.read_parquet(file) for s, file in zip(plan, snakemake.input.scores, strict=True)}
        write_text(snakemake.output.candidates, select_candidates(plan, scores).to_json())
